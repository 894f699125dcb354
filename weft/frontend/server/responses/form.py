"""ResponsesForm: how the Responses API writes an answer: one response, or events that build it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.engine.core.choice import ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.answer_blocks import AnswerBlock, AnswerBlocks, Change
from weft.frontend.server.chats import BegunChat
from weft.frontend.server.errors import error_response
from weft.frontend.server.renamed import renamed
from weft.frontend.server.replies import Answer
from weft.frontend.server.responses.chats import NAMES
from weft.frontend.server.responses.events import (
    CallArgumentsDelta,
    CallArgumentsDone,
    ContentPartAdded,
    ContentPartDone,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    ResponseCompleted,
    ResponseCreated,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
)
from weft.frontend.server.responses.logprobs import TokenWords
from weft.frontend.server.responses.records import (
    Incomplete,
    InputDetails,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningDetails,
    ReasoningText,
    ResponseFault,
    ResponseReply,
    ResponseUsage,
    TextLogprob,
)

_encoder = msgspec.json.Encoder()
FaultCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
_FAULTS: dict[int, FaultCode] = {400: "invalid_prompt", 422: "invalid_prompt", 429: "rate_limit_exceeded"}

Keep = Callable[[str, bytes, list[OutputItem]], None]
"""Takes a response that has ended: its id, its JSON and its output."""


class ResponsesForm:
    """One answer's. `empty`: the response before it has an id, a status and output. `reasoning`: whether blocks of it
    are made."""

    def __init__(
        self,
        empty: Callable[[Answer], ResponseReply],
        begun: BegunChat,
        words: TokenWords,
        keep: Keep,
        *,
        reasoning: bool = True,
    ) -> None:
        self._empty, self._words, self._keep = empty, words, keep
        self._blocks = AnswerBlocks(begun.rules, reasoning=reasoning)
        self._items: list[OutputItem] = []
        self._logprobs: dict[int, list[TextLogprob]] = {}
        """Of each block of text."""
        self._new: list[TextLogprob] = []
        """Of tokens whose text has not come."""
        self._number = 0
        self._last = ChoiceDelta()

    def whole(self, answer: Answer) -> bytes:
        """The response."""
        for piece in answer.pieces[0]:
            self.frames(answer, 0, piece)
        return self._stored(answer, self._ended(answer))

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """The response without output, twice."""
        response = self._empty(answer)
        return self._frame(ResponseCreated, response=response) + self._frame(ResponseInProgress, response=response)

    def frames(self, answer: Answer, index: int, piece: ChoiceDelta) -> bytes:
        """Events of items."""
        self._last = piece
        self._new += self._words.of(piece.logprobs)
        # Each change becomes events before the next one: a block that begins has no text yet.
        return b"".join(frame for change in self._changes(piece) for frame in self._event(answer, *change))

    def ending(self, answer: Answer) -> bytes:
        """The whole response."""
        response = self._ended(answer)
        self._stored(answer, response)
        return self._frame(ResponseIncomplete if response.status == "incomplete" else ResponseCompleted,
                           response=response)  # fmt: skip

    def refusal(self, error: RequestError) -> Response:
        """OpenAI's error object."""
        return error_response(renamed(error, NAMES))

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The response as far as it came, and why not farther."""
        fault = ResponseFault(_FAULTS.get(error.status, "server_error"), str(renamed(error, NAMES)))
        begun = self._blocks.open
        output = self._items + ([] if begun is None else [self._item(_id(answer, begun), begun, "incomplete")])
        made = replace(self._empty(answer), status="failed", error=fault, output=output, usage=self._usage(answer))
        self._stored(answer, made)
        return self._frame(ResponseFailed, response=made)

    def _changes(self, piece: ChoiceDelta) -> Iterator[tuple[Change, AnswerBlock, str]]:
        """Those of the blocks; an answer without any is an empty text."""
        yield from self._blocks.take(piece)
        if piece.finish_reason is not None and not self._blocks.blocks:
            block = AnswerBlock(index=0, kind="text")
            yield "begins", block, ""
            yield "ends", block, ""

    def _event(self, answer: Answer, change: Change, block: AnswerBlock, text: str) -> Iterator[bytes]:
        id, index = _id(answer, block), block.index
        if change == "begins":
            self._logprobs[index] = []
            yield self._frame(OutputItemAdded, output_index=index, item=self._item(id, block, "in_progress"))
            if (part := self._part(block)) is not None:
                yield self._frame(ContentPartAdded, output_index=index, item_id=id, part=part)
        elif change == "grows":
            yield self._delta(id, block, text)
        else:
            yield from self._done(id, block)

    def _delta(self, id: str, block: AnswerBlock, text: str) -> bytes:
        at: dict[str, Any] = {"output_index": block.index, "item_id": id, "delta": text}
        if block.kind == "text":
            new, self._new = self._new, []
            self._logprobs[block.index] += new
            return self._frame(OutputTextDelta, **at, logprobs=self._words.shown(new))
        self._new = []
        return self._frame(ReasoningTextDelta if block.kind == "reasoning" else CallArgumentsDelta, **at)

    def _done(self, id: str, block: AnswerBlock) -> Iterator[bytes]:
        at: dict[str, Any] = {"output_index": block.index, "item_id": id}
        cut = self._last.finish_reason == "length"
        item = self._item(id, block, "incomplete" if cut else "completed")
        self._items.append(item)
        if block.kind == "text":
            logprobs = self._words.shown(self._logprobs[block.index])
            yield self._frame(OutputTextDone, **at, text=block.text, logprobs=logprobs)
        elif block.kind == "reasoning":
            yield self._frame(ReasoningTextDone, **at, text=block.text)
        else:
            yield self._frame(CallArgumentsDone, **at, arguments=block.text)
        if (part := self._part(block)) is not None:
            yield self._frame(ContentPartDone, **at, part=part)
        yield self._frame(OutputItemDone, output_index=block.index, item=item)

    def _part(self, block: AnswerBlock) -> OutputText | ReasoningText | None:
        if block.kind == "text":
            return OutputText(block.text, self._logprobs[block.index])
        return ReasoningText(block.text) if block.kind == "reasoning" else None

    def _item(self, id: str, block: AnswerBlock, status: Any) -> OutputItem:
        """With the block's content; while it is in progress it has none."""
        part = None if status == "in_progress" else self._part(block)
        if block.kind == "call":
            return OutputCall(id, status, block.id, block.name, block.text)
        if block.kind == "reasoning":
            return OutputReasoning(id, status, [part] if isinstance(part, ReasoningText) else [])
        return OutputMessage(id, status, [part] if isinstance(part, OutputText) else [])

    def _ended(self, answer: Answer) -> ResponseReply:
        made = replace(self._empty(answer), output=self._items, usage=self._usage(answer))
        if self._last.finish_reason == "length":
            return replace(made, status="incomplete", incomplete_details=Incomplete())
        return replace(made, status="completed", completed_at=int(time.time()))

    def _usage(self, answer: Answer) -> ResponseUsage:
        choice = answer.choices[0]
        given, made = choice.prompt_tokens, choice.completion_tokens
        details = ReasoningDetails(self._blocks.reasoning_tokens)
        return ResponseUsage(given, InputDetails(choice.cached_tokens), made, details, given + made)

    def _stored(self, answer: Answer, response: ResponseReply) -> bytes:
        body = _encoder.encode(response)
        self._keep(answer.id, body, response.output)
        return body

    def _frame(self, kind: type[msgspec.Struct], **fields: Any) -> bytes:
        event = kind(sequence_number=self._number, **fields)
        self._number += 1
        tag = str(kind.__struct_config__.tag)
        return b"event: %b\ndata: %b\n\n" % (tag.encode(), _encoder.encode(event))


def _id(answer: Answer, block: AnswerBlock) -> str:
    prefix = {"text": "msg", "reasoning": "rs", "call": "fc"}[block.kind]
    return f"{prefix}_{answer.id.removeprefix('resp_')}_{block.index}"
