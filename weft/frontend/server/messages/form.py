"""MessagesForm: how the Messages API writes an answer: one message, or events that build it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from starlette.responses import Response

from weft.base.errors import RequestError
from weft.engine.core.choice import ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.answer_blocks import AnswerBlock, BlockForm, Change, Kind, encoded, event_frame
from weft.frontend.server.chats import BegunChat
from weft.frontend.server.messages import records
from weft.frontend.server.messages.chats import NAMES
from weft.frontend.server.messages.errors import messages_error, refusal
from weft.frontend.server.messages.requests import MessagesRequest
from weft.frontend.server.renamed import renamed
from weft.frontend.server.replies import Answer
from weft.frontend.server.tools.json_prefix import object_so_far

Delta = records.TextDelta | records.ThinkingDelta | records.InputJsonDelta
_DELTAS: dict[Kind, Callable[[str], Delta]] = {
    "text": records.TextDelta, "reasoning": records.ThinkingDelta, "call": records.InputJsonDelta,
}  # fmt: skip


class MessagesForm(BlockForm):
    """One answer's. `reasoning`: whether thoughts are shown."""

    names = NAMES

    def __init__(self, asked: MessagesRequest, begun: BegunChat, *, reasoning: bool) -> None:
        super().__init__(begun.rules, reasoning=reasoning)
        self._asked, self._pinged = asked, False

    def whole(self, answer: Answer) -> bytes:
        """The message."""
        pieces = answer.pieces[0]
        content = [_content(block, block.text, _signature(block.text)) for block in self._blocks.whole(pieces)]
        reason, sequence = self._ended(answer, pieces[-1])
        usage = self._usage(answer, answer.choices[0].cached_tokens)
        return encoded(records.MessageReply(answer.id, answer.model, content, usage, reason, sequence))

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """The message without content. What came from the prefix cache is known with the first token."""
        usage = self._usage(answer, arrived[0][1].cached_tokens if arrived else 0)
        return event_frame(records.MessageStart(records.MessageReply(answer.id, answer.model, [], usage)))

    def ending(self, answer: Answer) -> bytes:
        """Why it ended, and the usage."""
        usage = self._usage(answer, answer.choices[0].cached_tokens)
        end = records.MessageEnd(records.Ending(*self._ended(answer, self._last)), usage)
        return event_frame(end) + event_frame(records.MessageStop())

    def refusal(self, error: RequestError) -> Response:
        """This API's error object."""
        return refusal(renamed(error, NAMES))

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The error as an event."""
        return event_frame(messages_error(renamed(error, NAMES)))

    def _events(self, answer: Answer, change: Change, block: AnswerBlock, text: str) -> Iterator[bytes]:
        if change == "begins":
            yield event_frame(records.BlockStart(block.index, _content(block, "", "")))
            if not self._pinged:
                self._pinged = True
                yield event_frame(records.Ping())
        elif change == "grows":
            yield event_frame(records.BlockDelta(block.index, _DELTAS[block.kind](text)))
        else:
            if block.kind == "reasoning":
                signed = records.SignatureDelta(_signature(block.text))
                yield event_frame(records.BlockDelta(block.index, signed))
            yield event_frame(records.BlockStop(block.index))

    def _ended(self, answer: Answer, last: ChoiceDelta) -> tuple[records.StopReason, str | None]:
        if last.finish_reason == "length":
            cut = self._asked.max_tokens > max(1, answer.choices[0].completion_tokens)
            return ("model_context_window_exceeded" if cut else "max_tokens"), None
        if isinstance(last.stop_reason, str):
            return "stop_sequence", last.stop_reason
        return ("tool_use" if self._blocks.called else "end_turn"), None

    def _usage(self, answer: Answer, cached: int) -> records.MessageUsage:
        choice = answer.choices[0]
        details = records.OutputDetails(self._blocks.reasoning_tokens)
        return records.MessageUsage(choice.prompt_tokens - cached, choice.completion_tokens, cached, details)


def _content(block: AnswerBlock, text: str, signature: str) -> records.ContentBlock:
    if block.kind == "text":
        return records.TextBlock(text)
    if block.kind == "reasoning":
        return records.ThinkingBlock(text, signature)
    return records.ToolUseBlock(block.id, block.name, object_so_far(text))


def _signature(thought: str) -> str:
    return b64encode(sha256(thought.encode("utf-8", "replace")).digest()).decode()
