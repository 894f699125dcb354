"""What an answer is made of: pieces of text, of reasoning and of tool calls, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins. `index`: from 0, in the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, which are JSON text."""

    index: int
    text: str


Part = TextPart | ReasoningPart | CallStart | CallArguments


@dataclass(slots=True)
class ToolCall:
    """A whole call, or what there is of it where the answer was cut off."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class WholeAnswer:
    """All parts of an answer. None: there is no such part."""

    text: str | None = None
    reasoning: str | None = None
    calls: list[ToolCall] = field(default_factory=list)


def gathered(parts: Iterable[Part]) -> WholeAnswer:
    """The parts as one record."""
    whole = WholeAnswer()
    for part in parts:
        match part:
            case TextPart(text):
                whole.text = (whole.text or "") + text
            case ReasoningPart(text):
                whole.reasoning = (whole.reasoning or "") + text
            case CallStart(_, id, name):
                whole.calls.append(ToolCall(id, name))
            case CallArguments(index, text):
                whole.calls[index].arguments += text
    return whole
