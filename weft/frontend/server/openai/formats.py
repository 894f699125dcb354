"""What the two endpoints make of a choice's pieces: chunks while it grows, one choice when it is whole."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET
from msgspec.structs import replace

from weft.engine.core.choice import ChoiceDelta
from weft.engine.core.outputs import TokenLogprob
from weft.engine.text import Tokenizer
from weft.engine.text.offsets import TextOffsets
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart, ToolCall
from weft.frontend.server.answer_reader import AnswerReader, reasoning_tokens_of
from weft.frontend.server.openai.base import Shown
from weft.frontend.server.openai.records import (
    CalledTool,
    CalledToolDelta,
    ChatChoice,
    ChatChunkChoice,
    ChatLogprob,
    ChatLogprobs,
    CompletionChoice,
    CompletionLogprobs,
    CustomCall,
    Delta,
    FunctionCall,
    FunctionDelta,
    Message,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)
from weft.frontend.server.tools.custom_calls import CustomCalls
from weft.frontend.server.tools.translation import text_of


class _Words:
    """Names of tokens in log-probabilities."""

    def __init__(self, tokenizer: Tokenizer, shown: Shown) -> None:
        self._tokenizer, self._shown = tokenizer, shown

    @property
    def shows_ids(self) -> bool:
        return self._shown.token_ids

    def _name(self, token_id: int) -> str:
        if self._shown.tokens_as_ids:
            return f"token_id:{token_id}"
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")

    def _ids(self, piece: ChoiceDelta) -> list[int] | None:
        return piece.token_ids if self.shows_ids else None

    def _of_prompt(self, piece: ChoiceDelta) -> PromptLogprobs | None:
        if self._shown.prompt_logprobs is None:
            return None
        return [None, *(self._position(entry, self._shown.prompt_logprobs) for entry in piece.prompt_logprobs)]

    def _position(self, entry: TokenLogprob, most: int) -> dict[str, PromptLogprob]:
        found = {
            str(token): PromptLogprob(value, rank, self._text(token))
            for rank, (token, value) in enumerate(entry.top[:most], 1)
        }
        return {str(entry.token_id): PromptLogprob(entry.logprob, entry.rank, self._text(entry.token_id)), **found}

    def _text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")


class ChatFormat(_Words):
    """/v1/chat/completions. `rules`: what an answer's text is made of. `reasoning`: whether reasoning is shown."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, tokenizer: Tokenizer, shown: Shown, prompt_ids: list[int], rules: AnswerRules, *, reasoning: bool = True
    ) -> None:
        super().__init__(tokenizer, shown)
        self._prompt_ids, self._rules, self._reasoning = prompt_ids, rules, reasoning
        self._readers: dict[int, AnswerReader] = {}
        self._custom = CustomCalls(rules.use.offered)

    def first(self, index: int) -> ChatChunkChoice:
        """The role; an empty text too where no tool can be called, for clients begin a part of text with it."""
        text = UNSET if self._rules.use.callable else ""
        return ChatChunkChoice(index, Delta("assistant", text), None, None, token_ids=self._none)

    def chunks(self, index: int, piece: ChoiceDelta) -> list[ChatChunkChoice]:
        """Content, reasoning and calls, each part in a chunk of its own, or an empty delta at the end."""
        ids, logprobs, reason = self._ids(piece), self._of(piece.logprobs), piece.finish_reason
        if self._rules.plain:
            deltas = [Delta(content=piece.text)] if piece.text or reason is None else [Delta()]
        else:
            reader = self._reader(index)
            deltas = [delta for part in reader.parts(piece) if (delta := self._delta(part, index)) is not None]
            reason = _reason(reason, reader.called)
            if not deltas and (reason is not None or logprobs is not None or ids is not None):
                deltas = [Delta()]
        if not deltas:
            return []
        *before, last = [ChatChunkChoice(index, delta, None, None, token_ids=self._none) for delta in deltas]
        return [
            *before,
            replace(last, logprobs=logprobs, finish_reason=reason, stop_reason=piece.stop_reason, token_ids=ids),
        ]

    @property
    def _none(self) -> list[int] | None:
        """Ids of a chunk without tokens."""
        return [] if self.shows_ids else None

    def _delta(self, part: Part, index: int) -> Delta | None:
        if isinstance(part, CallStart | CallArguments) and (found := self._custom.taken(index, part)) is not None:
            calls = [CalledToolDelta(part.index, call.id, "custom", custom=_custom(call)) for call in found]
            return Delta(tool_calls=calls) if calls else None
        match part:
            case TextPart(text):
                return Delta(content=text)
            case ReasoningPart(text):
                return Delta(reasoning_content=text, reasoning=text) if self._reasoning else None
            case CallStart(at, id, name):
                return Delta(tool_calls=[CalledToolDelta(at, id, "function", FunctionDelta(name))])
            case CallArguments(at, text):
                return Delta(tool_calls=[CalledToolDelta(at, function=FunctionDelta(arguments=text))])

    def _called(self, call: ToolCall) -> CalledTool:
        if self._custom.has(call.name):
            call.arguments = text_of(call.arguments) or ""
            return CalledTool(call.id, type="custom", custom=_custom(call))
        return CalledTool(call.id, FunctionCall(call.name, call.arguments))

    def choice(self, index: int, piece: ChoiceDelta) -> ChatChoice:
        """The message."""
        logprobs, reason, message = self._of(piece.logprobs), piece.finish_reason or "stop", Message(piece.text)
        if not self._rules.plain:
            parser = self._rules.parser()
            whole = parser.whole(piece.text, cut=piece.is_cut)
            calls = [self._called(call) for call in whole.calls]
            thoughts = whole.reasoning if self._reasoning and whole.reasoning is not None else UNSET
            text = whole.text if whole.text or calls or whole.reasoning else ""
            message = Message(text, reasoning_content=thoughts, reasoning=thoughts, tool_calls=calls or UNSET)
            reason = _reason(reason, parser.called) or "stop"
        return ChatChoice(index, message, logprobs, reason, piece.stop_reason, self._ids(piece))

    def prompt(self, pieces: Sequence[ChoiceDelta]) -> tuple[list[int] | None, PromptLogprobs | None]:
        """The conversation's."""
        return self.opening_ids, self._of_prompt(pieces[0])

    @property
    def opening_ids(self) -> list[int] | None:
        """The conversation's."""
        return self._prompt_ids if self._shown.token_ids else None

    def unseen(self, index: int, piece: ChoiceDelta) -> None:
        """Its tokens may be reasoning."""
        if not self._rules.plain:
            self._reader(index).parts(piece)

    def _reader(self, index: int) -> AnswerReader:
        return self._readers.setdefault(index, AnswerReader(self._rules))

    def thoughts(self, answers: Sequence[Sequence[ChoiceDelta]] | None = None) -> int:
        """Also of reasoning that is not shown."""
        if answers is None:
            return sum(reader.reasoning_tokens for reader in self._readers.values())
        return sum(reasoning_tokens_of(self._rules, pieces) for pieces in answers)

    def _of(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return None if self._shown.logprobs is None else ChatLogprobs([self._one(entry) for entry in logprobs])

    def _one(self, entry: TokenLogprob) -> ChatLogprob:
        own = self._token(entry.token_id, entry.logprob)
        top = [self._token(token, logprob) for token, logprob in self._alternatives(entry)]
        return ChatLogprob(own.token, own.logprob, own.bytes, top)

    def _alternatives(self, entry: TokenLogprob) -> list[tuple[int, float]]:
        """Likeliest first."""
        top = list(entry.top[: self._shown.logprobs])
        if self._shown.named and entry.token_id not in dict(top):
            insort(top, (entry.token_id, entry.logprob), key=lambda pair: -pair[1])
        return top

    def _token(self, token_id: int, logprob: float) -> TopLogprob:
        return TopLogprob(self._name(token_id), logprob, list(self._tokenizer.token_bytes(token_id)))


def _custom(call: ToolCall) -> CustomCall:
    return CustomCall(call.name, call.arguments)


def _reason(reason: str | None, called: bool) -> str | None:
    return "tool_calls" if reason == "stop" and called else reason


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that the answer repeats before its own text."""

    text: str
    ids: list[int]


class CompletionFormat(_Words):
    """/v1/completions. `prompts`: of each choice, its prompt; `echo`: whether the choices repeat them."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        shown: Shown,
        prompts: Sequence[Echo],
        *,
        echo: bool = False,
        skip: frozenset[int] = frozenset(),
    ) -> None:
        """`skip`: ids that are no text of an answer."""
        super().__init__(tokenizer, shown)
        self._prompts, self._echo, self._skip = prompts, echo, skip
        self._offsets: dict[int, TextOffsets] = {}
        self._begun: set[int] = set()

    def first(self, index: int) -> None:
        """Nothing opens a text."""
        return None

    def chunks(self, index: int, piece: ChoiceDelta) -> list[CompletionChoice]:
        """One."""
        return [self.choice(index, piece)]

    def choice(self, index: int, piece: ChoiceDelta) -> CompletionChoice:
        """The new text; with the first of it, the prompt where it is repeated."""
        prompt, begins = self._prompts[index], index not in self._begun
        self._begun.add(index)
        repeats = self._echo and begins
        return CompletionChoice(
            index,
            prompt.text + piece.text if repeats else piece.text,
            self._of(index, piece, repeats),
            piece.finish_reason,
            piece.stop_reason,
            self._ids(piece),
            prompt.ids if self._shown.token_ids and begins else None,
            self._of_prompt(piece) if begins else None,
        )

    def prompt(self, pieces: Sequence[ChoiceDelta]) -> tuple[None, None]:
        """Each choice has its own."""
        return None, None

    @property
    def opening_ids(self) -> None:
        """The same."""
        return None

    def unseen(self, index: int, piece: ChoiceDelta) -> None:
        """Nothing depends on it."""

    def thoughts(self, answers: Sequence[Sequence[ChoiceDelta]] | None = None) -> None:
        """A text is no chat."""
        return None

    def _of(self, index: int, piece: ChoiceDelta, repeats: bool) -> CompletionLogprobs | None:
        """`repeats`: the prompt is part of it; of its first token no log-probability exists."""
        if self._shown.logprobs is None:
            return None
        prompt = self._prompts[index]
        offsets_of = self._offsets.get(index)
        if offsets_of is None:
            text = prompt.text if self._echo else None
            offsets_of = self._offsets[index] = TextOffsets(self._tokenizer, prompt.ids, self._skip, text)
        first = prompt.ids[:1] if repeats else []
        scored = piece.prompt_logprobs if repeats else []
        entries = [*scored, *piece.logprobs]
        ids = [*first, *(entry.token_id for entry in entries)]
        offsets = offsets_of.of_prompt(ids[: len(first) + len(scored)])
        offsets += offsets_of.of_answer(entry.token_id for entry in piece.logprobs)
        unknown: list[None] = [None] * len(first)
        values, tops = [entry.logprob for entry in entries], [self._top(entry) for entry in entries]
        return CompletionLogprobs([self._key(token) for token in ids], unknown + values, unknown + tops, offsets)

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """The alternatives, and the token itself where it is none of them."""
        top = {self._key(token): logprob for token, logprob in entry.top[: self._shown.logprobs]}
        return top | {self._key(entry.token_id): entry.logprob}

    def _key(self, token_id: int) -> str:
        """The token's text; bytes that are no text alone are written out, so that no two tokens look alike."""
        raw = self._tokenizer.token_bytes(token_id)
        name = self._name(token_id)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if "\ufffd" in name else name
