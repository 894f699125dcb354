"""Tools of Anthropic's that the client runs: the model calls them as functions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from weft.base.data_files import read_toml


class _ClientTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    types: tuple[str, ...]
    name: str
    description: str
    parameters: dict[str, Any]
    required: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tools: list[_ClientTool]


@cache
def _tools() -> dict[str, _ClientTool]:
    found = read_toml("weft.frontend.server.tools", "client_tools.toml", _File).tools
    return {kind: tool for tool in found for kind in tool.types}


def client_types() -> list[str]:
    """Types of all such tools."""
    return [*_tools()]


def client_function(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    """The function that a tool of a request is; None: its type is none of these."""
    kind = tool.get("type")
    found = _tools().get(kind) if isinstance(kind, str) else None
    if found is None:
        return None
    width, height = tool.get("display_width_px"), tool.get("display_height_px")
    size = f" The screen has {width} x {height} pixels." if type(width) is int and type(height) is int else ""
    schema: dict[str, Any] = {"type": "object", "properties": found.parameters, "required": [*found.required]}
    return {"name": tool.get("name", found.name), "description": found.description + size, "parameters": schema}
