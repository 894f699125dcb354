"""MessagesForm: how the Messages API writes an answer: one message, or events that build it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256

import msgspec
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.engine.core.choice import ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.answer_blocks import AnswerBlock, AnswerBlocks, Change
from weft.frontend.server.chats import BegunChat
from weft.frontend.server.messages.chats import NAMES
from weft.frontend.server.messages.errors import messages_error, refusal
from weft.frontend.server.messages.json_prefix import object_so_far
from weft.frontend.server.messages.records import (
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    Ending,
    Event,
    InputJsonDelta,
    MessageEnd,
    MessageReply,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputDetails,
    Ping,
    SignatureDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from weft.frontend.server.messages.requests import MessagesRequest
from weft.frontend.server.renamed import renamed
from weft.frontend.server.replies import Answer

_encoder = msgspec.json.Encoder()


class MessagesForm:
    """One answer's. `reasoning`: whether thoughts are shown."""

    def __init__(self, asked: MessagesRequest, begun: BegunChat, *, reasoning: bool) -> None:
        self._asked = asked
        self._blocks = AnswerBlocks(begun.rules, reasoning=reasoning)
        self._last = ChoiceDelta()
        self._pinged = False

    def whole(self, answer: Answer) -> bytes:
        """The message."""
        pieces = answer.pieces[0]
        content = [_content(block) for block in self._blocks.whole(pieces)]
        reason, sequence = self._ended(answer, pieces[-1])
        usage = self._usage(answer, answer.choices[0].cached_tokens)
        return _encoder.encode(MessageReply(answer.id, answer.model, content, usage, reason, sequence))

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """The message without content. What came from the prefix cache is known with the first token."""
        usage = self._usage(answer, arrived[0][1].cached_tokens if arrived else 0)
        return _frame(MessageStart(MessageReply(answer.id, answer.model, [], usage)))

    def frames(self, answer: Answer, index: int, piece: ChoiceDelta) -> bytes:
        """Events of blocks."""
        self._last = piece
        return b"".join([_frame(event) for change in self._blocks.take(piece) for event in self._events(*change)])

    def ending(self, answer: Answer) -> bytes:
        """Why it ended, and the usage."""
        usage = self._usage(answer, answer.choices[0].cached_tokens)
        return _frame(MessageEnd(Ending(*self._ended(answer, self._last)), usage)) + _frame(MessageStop())

    def refusal(self, error: RequestError) -> Response:
        """This API's error object."""
        return refusal(renamed(error, NAMES))

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The same as an event."""
        return _frame(messages_error(renamed(error, NAMES)))

    def _events(self, change: Change, block: AnswerBlock, text: str) -> Iterator[Event]:
        if change == "begins":
            yield BlockStart(block.index, _empty(block))
            if not self._pinged:
                self._pinged = True
                yield Ping()
        elif change == "grows":
            yield BlockDelta(block.index, _delta(block, text))
        else:
            if block.kind == "reasoning":
                yield BlockDelta(block.index, SignatureDelta(_signature(block.text)))
            yield BlockStop(block.index)

    def _ended(self, answer: Answer, last: ChoiceDelta) -> tuple[StopReason, str | None]:
        if last.finish_reason == "length":
            cut = self._asked.max_tokens > max(1, answer.choices[0].completion_tokens)
            return ("model_context_window_exceeded" if cut else "max_tokens"), None
        if isinstance(last.stop_reason, str):
            return "stop_sequence", last.stop_reason
        return ("tool_use" if self._blocks.called else "end_turn"), None

    def _usage(self, answer: Answer, cached: int) -> MessageUsage:
        choice = answer.choices[0]
        details = OutputDetails(self._blocks.reasoning_tokens)
        return MessageUsage(choice.prompt_tokens - cached, choice.completion_tokens, cached, details)


def _frame(event: Event) -> bytes:
    kind = event.__struct_config__.tag
    return b"event: %b\ndata: %b\n\n" % (str(kind).encode(), _encoder.encode(event))


def _content(block: AnswerBlock) -> ContentBlock:
    if block.kind == "text":
        return TextBlock(block.text)
    if block.kind == "reasoning":
        return ThinkingBlock(block.text, _signature(block.text))
    return ToolUseBlock(block.id, block.name, object_so_far(block.text))


def _empty(block: AnswerBlock) -> ContentBlock:
    if block.kind == "text":
        return TextBlock("")
    if block.kind == "reasoning":
        return ThinkingBlock("", "")
    return ToolUseBlock(block.id, block.name, {})


def _delta(block: AnswerBlock, text: str) -> TextDelta | ThinkingDelta | InputJsonDelta:
    if block.kind == "text":
        return TextDelta(text)
    return ThinkingDelta(text) if block.kind == "reasoning" else InputJsonDelta(text)


def _signature(thought: str) -> str:
    return b64encode(sha256(thought.encode("utf-8", "replace")).digest()).decode()
