"""Tools that a request offers, and which of them an answer may or must call. Plain records for every API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Schema = Mapping[str, Any]
ANY_OBJECT: Schema = {"type": "object"}
Mode = Literal["auto", "required", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function. `parameters`: JSON Schema of its arguments."""

    name: str
    description: str | None = None
    parameters: Schema = field(default_factory=lambda: dict(ANY_OBJECT))
    strict: bool = False
    """Its schema is held to the letter, or refused."""
    custom: bool = False
    """It takes a text, which is the one argument of the function that it became."""
    namespace: str | None = None
    """Stands before its name, where the request has that apart."""
    at: str = "tools[0]"
    """Its place in the request."""

    def as_sent(self) -> dict[str, Any]:
        """As chat templates take it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": dict(self.parameters)}}

    def changed(self, change: Callable[[Any], Any]) -> Tool:
        """With all of its texts changed."""
        found = {name: change(getattr(self, name)) for name in ("name", "description", "parameters")}
        return replace(self, **found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """`offered`: what the prompt shows. `mode`: an answer may call, must call, must not. `only`: names that it may
    call; None: all. `parallel`: several calls in one answer."""

    offered: tuple[Tool, ...] = ()
    mode: Mode = "none"
    only: tuple[str, ...] | None = None
    parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Tools that the answer may call."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in self.offered if self.only is None or tool.name in self.only)


NO_TOOLS = ToolUse()


def by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by name."""
    return {tool.name: tool for tool in tools}
