"""ResponsesForm: how the Responses API writes an answer: one response, or events that build it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from weft.base.errors import RequestError
from weft.engine.core.choice import ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.answer_blocks import AnswerBlock, BlockForm, Change, Kind, encoded, event_frame
from weft.frontend.server.chats import BegunChat
from weft.frontend.server.renamed import renamed
from weft.frontend.server.replies import Answer
from weft.frontend.server.responses import events, records
from weft.frontend.server.responses.chats import NAMES
from weft.frontend.server.responses.logprobs import TokenWords
from weft.frontend.server.tools.translation import name_without, text_of

_FAULTS: dict[int, records.FaultCode] = {400: "invalid_prompt", 422: "invalid_prompt", 429: "rate_limit_exceeded"}

Keep = Callable[[str, bytes, list[records.OutputItem]], None]
"""Takes a response that has ended: its id, its JSON and its output."""
_KINDS: dict[Kind, tuple[str, type[msgspec.Struct], type[msgspec.Struct], str]] = {
    "text": ("msg", events.OutputTextDelta, events.OutputTextDone, "text"),
    "reasoning": ("rs", events.ReasoningTextDelta, events.ReasoningTextDone, "text"),
    "call": ("fc", events.CallArgumentsDelta, events.CallArgumentsDone, "arguments"),
}
"""Of each kind of block: what its id begins with, the events of its text, and the field of the last one."""
_CUSTOM = ("ctc", events.CustomInputDelta, events.CustomInputDone, "input")
"""Of calls of custom tools. Their text is known when their arguments are whole."""


class ResponsesForm(BlockForm):
    """One answer's. `empty`: the response before it has an id, a status and output."""

    names = NAMES

    def __init__(
        self,
        empty: Callable[[Answer], records.ResponseReply],
        begun: BegunChat,
        words: TokenWords,
        keep: Keep,
        *,
        reasoning: bool = True,
    ) -> None:
        super().__init__(begun.rules, reasoning=reasoning)
        self._empty, self._words, self._keep = empty, words, keep
        self._items: list[records.OutputItem] = []
        self._logprobs: dict[int, list[records.TextLogprob]] = {}
        """Of each block of text."""
        self._new: list[records.TextLogprob] = []
        """Of tokens whose text has not come."""
        self._number = 0

    def whole(self, answer: Answer) -> bytes:
        """The response."""
        for piece in answer.pieces[0]:
            self.frames(answer, 0, piece)
        return self._stored(answer, self._ended(answer))

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """The response without output, twice."""
        response = self._empty(answer)
        begun = (events.ResponseCreated, events.ResponseInProgress)
        return b"".join([self._frame(kind, response=response) for kind in begun])

    def ending(self, answer: Answer) -> bytes:
        """The whole response."""
        response = self._ended(answer)
        self._stored(answer, response)
        cut = response.status == "incomplete"
        return self._frame(events.ResponseIncomplete if cut else events.ResponseCompleted, response=response)

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The response as far as it came, and why not farther."""
        fault = records.ResponseFault(_FAULTS.get(error.status, "server_error"), str(renamed(error, NAMES)))
        begun = self._blocks.open
        output = self._items + ([] if begun is None else [self._item(_id(answer, begun), begun, "incomplete")])
        made = replace(self._empty(answer), status="failed", error=fault, output=output, usage=self._usage(answer))
        self._stored(answer, made)
        return self._frame(events.ResponseFailed, response=made)

    def _changes(self, piece: ChoiceDelta) -> Iterator[tuple[Change, AnswerBlock, str]]:
        """Those of the blocks; an answer without any is an empty text."""
        self._new += self._words.of(piece.logprobs)
        yield from self._blocks.take(piece)
        if piece.finish_reason is not None and not self._blocks.blocks:
            block = AnswerBlock(index=0, kind="text")
            yield "begins", block, ""
            yield "ends", block, ""

    def _events(self, answer: Answer, change: Change, block: AnswerBlock, text: str) -> Iterator[bytes]:
        id, index = _id(answer, block), block.index
        _, delta, done, field = _kind(block)
        at: dict[str, Any] = {"output_index": index, "item_id": id}
        if change == "begins":
            self._logprobs[index] = []
            yield self._frame(events.OutputItemAdded, output_index=index, item=self._item(id, block, "in_progress"))
            if (part := self._part(block)) is not None:
                yield self._frame(events.ContentPartAdded, **at, part=part)
        elif change == "grows" and _is_custom(block):
            return
        elif change == "grows":
            new, self._new = self._new, []
            yield self._frame(delta, **at, delta=text, **self._shown(block, new))
            if block.kind == "text":
                self._logprobs[index] += new
        else:
            item = self._item(id, block, "incomplete" if self._last.finish_reason == "length" else "completed")
            self._items.append(item)
            text = _shown_text(block)
            if _is_custom(block):
                yield self._frame(delta, **at, delta=text)
            yield self._frame(done, **at, **{field: text}, **self._shown(block, self._logprobs[index]))
            if (part := self._part(block)) is not None:
                yield self._frame(events.ContentPartDone, **at, part=part)
            yield self._frame(events.OutputItemDone, output_index=index, item=item)

    def _shown(self, block: AnswerBlock, logprobs: Sequence[records.TextLogprob]) -> dict[str, Any]:
        return {"logprobs": self._words.shown(logprobs)} if block.kind == "text" else {}

    def _part(self, block: AnswerBlock) -> records.OutputText | records.ReasoningText | None:
        if block.kind == "text":
            return records.OutputText(block.text, self._logprobs[block.index])
        return records.ReasoningText(block.text) if block.kind == "reasoning" else None

    def _item(self, id: str, block: AnswerBlock, status: Any) -> records.OutputItem:
        """With the block's content; while it is in progress it has none."""
        if block.kind == "call":
            text = "" if status == "in_progress" else _shown_text(block)
            namespace = block.tool.namespace if block.tool is not None else None
            name = block.name if namespace is None else name_without(namespace, block.name)
            said = UNSET if namespace is None else namespace
            if _is_custom(block):
                return records.OutputCustomCall(id, block.id, name, text, said)
            return records.OutputCall(id, status, block.id, name, text, said)
        part: Any = None if status == "in_progress" else self._part(block)
        make = records.OutputReasoning if block.kind == "reasoning" else records.OutputMessage
        return make(id, status, [] if part is None else [part])

    def _ended(self, answer: Answer) -> records.ResponseReply:
        made = replace(self._empty(answer), output=self._items, usage=self._usage(answer))
        if self._last.finish_reason == "length":
            return replace(made, status="incomplete", incomplete_details=records.Incomplete())
        return replace(made, status="completed", completed_at=int(time.time()))

    def _usage(self, answer: Answer) -> records.ResponseUsage:
        choice = answer.choices[0]
        given, made = choice.prompt_tokens, choice.completion_tokens
        details = records.ReasoningDetails(self._blocks.reasoning_tokens)
        return records.ResponseUsage(given, records.InputDetails(choice.cached_tokens), made, details, given + made)

    def _stored(self, answer: Answer, response: records.ResponseReply) -> bytes:
        body = encoded(response)
        self._keep(answer.id, body, response.output)
        return body

    def _frame(self, kind: type[msgspec.Struct], **fields: Any) -> bytes:
        self._number += 1
        return event_frame(kind(sequence_number=self._number - 1, **fields))


def _id(answer: Answer, block: AnswerBlock) -> str:
    return f"{_kind(block)[0]}_{answer.id.removeprefix('resp_')}_{block.index}"


def _kind(block: AnswerBlock) -> tuple[str, type[msgspec.Struct], type[msgspec.Struct], str]:
    return _CUSTOM if _is_custom(block) else _KINDS[block.kind]


def _is_custom(block: AnswerBlock) -> bool:
    return block.tool is not None and block.tool.custom


def _shown_text(block: AnswerBlock) -> str:
    return text_of(block.text) or "" if _is_custom(block) else block.text
