"""CustomCalls: calls of custom tools in a stream, whose text is sent when it is whole."""

from __future__ import annotations

from collections.abc import Iterable

from weft.frontend.chat.parts import CallArguments, CallStart, ToolCall
from weft.frontend.chat.tools import Tool
from weft.frontend.server.tools.translation import text_of


class CustomCalls:
    """Of the custom ones among `tools`."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._names = {tool.name for tool in tools if tool.custom}
        self._calls = dict[tuple[int, int], ToolCall]()
        self._sent = set[tuple[int, int]]()

    def has(self, name: str) -> bool:
        """Whether it is the name of one."""
        return name in self._names

    def taken(self, choice: int, part: CallStart | CallArguments) -> list[ToolCall] | None:
        """The call that is whole with this part, if any; None: the part is of another tool's call."""
        key = choice, part.index
        if isinstance(part, CallStart):
            if not self.has(part.name):
                return None
            self._calls[key] = ToolCall(part.id, part.name)
            return []
        if key not in self._calls:
            return None
        call = self._calls[key]
        call.arguments += part.text
        text = text_of(call.arguments, whole=False)
        if text is None or key in self._sent:
            return []
        self._sent.add(key)
        return [ToolCall(call.id, call.name, text)]
