"""AnswerBlocks: one answer, piece by piece, as blocks of text, of reasoning and of tool calls. BlockForm: what the
replies of APIs with such blocks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.engine.core.choice import ChoiceDelta
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart
from weft.frontend.chat.tools import Tool, by_name
from weft.frontend.server.answer_reader import AnswerReader
from weft.frontend.server.errors import error_response
from weft.frontend.server.renamed import renamed
from weft.frontend.server.replies import Answer

_encoder = msgspec.json.Encoder()

Kind = Literal["text", "reasoning", "call"]
Change = Literal["begins", "grows", "ends"]


@dataclass(slots=True, kw_only=True)
class AnswerBlock:
    """`index`: from 0, in the answer. `id`, `name`, `tool`: a call's. `text`: so far; of a call, the JSON of its
    arguments."""

    index: int
    kind: Kind
    id: str = ""
    name: str = ""
    tool: Tool | None = None
    text: str = ""


class AnswerBlocks:
    """`blocks`: all so far; `open`: the one that may grow. `reasoning`: whether blocks of reasoning are made."""

    def __init__(self, rules: AnswerRules, *, reasoning: bool = True) -> None:
        self._reader, self._tools = AnswerReader(rules), by_name(rules.use.offered)
        self._reasoning = reasoning
        self.open: AnswerBlock | None = None
        self.blocks: list[AnswerBlock] = []

    @property
    def called(self) -> bool:
        """Whether tools are called, and the last call is whole."""
        return self._reader.called

    @property
    def reasoning_tokens(self) -> int:
        """Of the pieces so far."""
        return self._reader.reasoning_tokens

    def whole(self, pieces: Sequence[ChoiceDelta]) -> list[AnswerBlock]:
        """The blocks of an answer that has ended."""
        for piece in pieces:
            for _ in self.take(piece):
                pass
        return self.blocks

    def take(self, piece: ChoiceDelta) -> Iterator[tuple[Change, AnswerBlock, str]]:
        """(what happens, to which block, text that is new in it). The last piece ends the last block."""
        for part in self._reader.parts(piece):
            kind: Kind = _kind(part)
            if kind == "reasoning" and not self._reasoning:
                continue
            if self.open is None or self.open.kind != kind or isinstance(part, CallStart):
                yield from self._end()
                self.open = self._begun(kind, part)
                self.blocks.append(self.open)
                yield "begins", self.open, ""
            if not isinstance(part, CallStart):
                self.open.text += part.text
                yield "grows", self.open, part.text
        if piece.finish_reason is not None:
            yield from self._end()

    def _begun(self, kind: Kind, part: Part) -> AnswerBlock:
        block = AnswerBlock(index=len(self.blocks), kind=kind)
        if isinstance(part, CallStart):
            block.id, block.name, block.tool = part.id, part.name, self._tools.get(part.name)
        return block

    def _end(self) -> Iterator[tuple[Change, AnswerBlock, str]]:
        if self.open is not None:
            yield "ends", self.open, ""
        self.open = None


class BlockForm(ABC):
    """One answer's. `names`: a chat's fields, in the API's words. `reasoning`: whether blocks of it are made."""

    names: ClassVar[Mapping[str, str]]

    def __init__(self, rules: AnswerRules, *, reasoning: bool) -> None:
        self._blocks = AnswerBlocks(rules, reasoning=reasoning)
        self._last = ChoiceDelta()

    def frames(self, answer: Answer, index: int, piece: ChoiceDelta) -> bytes:
        """Events of blocks."""
        self._last = piece
        # Each change becomes events before the next one: a block that begins has no text yet.
        return b"".join([frame for change in self._changes(piece) for frame in self._events(answer, *change)])

    def _changes(self, piece: ChoiceDelta) -> Iterator[tuple[Change, AnswerBlock, str]]:
        return self._blocks.take(piece)

    @abstractmethod
    def _events(self, answer: Answer, change: Change, block: AnswerBlock, text: str) -> Iterator[bytes]:
        """Frames of what happens to a block."""

    def refusal(self, error: RequestError) -> Response:
        """See `ReplyForm`."""
        return error_response(renamed(error, self.names))


def encoded(record: msgspec.Struct) -> bytes:
    """A record as JSON."""
    return _encoder.encode(record)


def event_frame(event: msgspec.Struct) -> bytes:
    """A frame that is named by the tag of its record."""
    return b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), _encoder.encode(event))


def _kind(part: Part) -> Kind:
    match part:
        case TextPart():
            return "text"
        case ReasoningPart():
            return "reasoning"
        case CallStart() | CallArguments():
            return "call"
