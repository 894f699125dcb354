"""AnswerParser: an answer's text, piece by piece, as parts: text, reasoning and tool calls.

What parts an answer has depends on its text alone, not on how it fell into pieces. Text that may begin something else
is held back until it is clear what it is, and so is white space, which belongs to what stands around it.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from weft.frontend.chat.arguments import ArgumentsReader, JsonArguments, XmlArguments
from weft.frontend.chat.form_patterns import Pattern, Then, Watched, patterns_of
from weft.frontend.chat.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart, WholeAnswer, gathered
from weft.frontend.chat.patterns import BLANKS, NO, PARTIAL, match_at
from weft.frontend.chat.reasoning_forms import ReasoningForm
from weft.frontend.chat.tool_forms import Ids, ToolForm
from weft.frontend.chat.tools import Tool, by_name

ALPHABET = string.ascii_letters + string.digits


def new_id(ids: Ids) -> str:
    """A call's id as its form has it."""
    return _letters(9) if ids == "nine" else f"call_{_letters(24)}"


def _letters(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))


class _In(Enum):
    """Where in an answer its next character stands."""

    TEXT = "text"
    REASONING = "reasoning"
    ARGUMENTS = "arguments"
    AFTER_CALL = "after a call's arguments"


@dataclass(frozen=True, slots=True)
class _Hit:
    pattern: Pattern
    end: int
    name: str


class AnswerParser:
    """Reads one answer. `push` pieces, then `finish`."""

    def __init__(
        self,
        *,
        form: ToolForm | None = None,
        tools: Sequence[Tool] = (),
        reasoning: ReasoningForm | None = None,
        thinking: bool = False,
        must_call: bool = False,
        ids: Callable[[], str] | None = None,
    ) -> None:
        """`tools`: those that the answer may call; without any, calls are text. `thinking`: the answer begins inside
        its reasoning. `must_call`: it is calls alone, after its reasoning."""
        self.calls = 0
        self._must_call = must_call
        self._tools = by_name(tools) if form is not None else {}
        self._form = form if self._tools else None
        self._patterns = patterns_of(self._form, reasoning)
        self._new_id = ids or (lambda: new_id(form.ids if form is not None else "call"))
        self._in = _In.REASONING if thinking and reasoning is not None else _In.TEXT
        self._held = ""  # may begin a pattern
        self._blanks: list[str] = []  # white space that belongs to what comes, or to nothing
        self._keeps_blanks = self._in is _In.TEXT
        self._at_start = True
        self._spelling = 0
        self._arguments: ArgumentsReader = JsonArguments()

    @property
    def thinking(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._in is _In.REASONING

    def push(self, text: str) -> list[Part]:
        """Parts that are final with `text`."""
        return self._read(text, ended=False)

    @property
    def called(self) -> bool:
        """Whether there are calls, and the last is whole."""
        return self.calls > 0 and self._in is not _In.ARGUMENTS

    def finish(self, *, cut: bool = False) -> list[Part]:
        """The rest: what was held back. `cut`: the answer was cut off, so that a pattern that has begun is left out."""
        if cut and self._has_begun(self._held):
            self._held = ""
            self._blanks.clear()
        parts = self._read("", ended=True)
        if self._in is _In.ARGUMENTS and (left := self._arguments.finish(cut=cut)):
            parts.append(CallArguments(self.calls - 1, left))
        if self._in is _In.TEXT and self._keeps_blanks and self._blanks:
            parts.append(TextPart("".join(self._blanks)))
        self._blanks.clear()
        return parts

    def whole(self, text: str, *, cut: bool = False) -> WholeAnswer:
        """Of a whole answer."""
        return gathered([*self.push(text), *self.finish(cut=cut)])

    def _read(self, text: str, ended: bool) -> list[Part]:
        parts: list[Part] = []
        text, self._held = self._held + text, ""
        while text:
            left = self._arguments_of(text, parts) if self._in is _In.ARGUMENTS else self._other(text, ended, parts)
            if left is None:
                break
            text = left
        return parts

    def _arguments_of(self, text: str, parts: list[Part]) -> str:
        made, left = self._arguments.push(text)
        if made:
            parts.append(CallArguments(self.calls - 1, made))
        if self._arguments.done:
            self._after_call()
        return left

    def _after_call(self) -> None:
        following = self._patterns.after_call[self._spelling]
        self._enter(_In.AFTER_CALL if following else _In.TEXT)

    def _enter(self, where: _In) -> None:
        """White space at the beginning of a part that follows another belongs to neither."""
        self._in, self._at_start, self._keeps_blanks = where, False, False
        self._blanks.clear()

    def _other(self, text: str, ended: bool, parts: list[Part]) -> str | None:
        """Takes text up to a pattern and the pattern; returns what follows. None: all of it is taken or held."""
        if self._in is _In.AFTER_CALL:
            return self._closing(text, ended, parts)
        at, hit = self._first(text, ended)
        self._pass_on(text[:at], parts)
        if hit is None:
            self._held = text[at:]
            return None
        self._take(hit, parts)
        return text[hit.end :]

    def _closing(self, text: str, ended: bool, parts: list[Part]) -> str | None:
        """Takes what closes a call. Where an answer is cut off inside it, that is left out; anything else is text."""
        hit, growing = self._best(self._patterns.after_call[self._spelling], text, 0)
        if growing and (hit is None or not ended):
            self._held = "" if ended else text
            return None
        if hit is None:
            self._enter(_In.TEXT)
            return text
        self._take(hit, parts)
        return text[hit.end :]

    def _first(self, text: str, ended: bool) -> tuple[int, _Hit | None]:
        """Where a pattern begins, and its match: the first, and of those there the longest. None: where one may begin
        that goes on beyond `text`, else the end."""
        at_start, watched = self._in is _In.TEXT and self._at_start, self._watched()
        for at, character in enumerate(text):
            if character in watched.firsts:
                hit, growing = self._best(watched.patterns, text, at)
                if growing and not ended:
                    return at, None
                if hit is not None:
                    return at, hit
            if at_start and character not in BLANKS:
                watched, at_start = self._patterns.later_text, False
        return len(text), None

    def _watched(self) -> Watched:
        """The patterns that may begin here."""
        if self._in is _In.REASONING:
            return self._patterns.reasoning
        return self._patterns.text if self._at_start else self._patterns.later_text

    def _has_begun(self, held: str) -> bool:
        """Whether what is held back is a pattern's beginning and no text: the pattern's first fixed text is whole, or
        no text may come."""
        if self._in is _In.ARGUMENTS or not held:
            return False
        if self._in is _In.AFTER_CALL:
            return self._best(self._patterns.after_call[self._spelling], held, 0)[1]
        no_text = self._must_call and self._in is _In.TEXT
        begun = [each for each in self._watched().patterns if no_text or held.startswith(str(each.atoms[0]))]
        return self._best(begun, held, 0)[1]

    def _best(self, patterns: Sequence[Pattern], text: str, at: int) -> tuple[_Hit | None, bool]:
        """The longest match at `at`, and whether another may come with more text."""
        best, growing = None, False
        for pattern in patterns:
            found = match_at(pattern.atoms, text, at, self._tools)
            growing |= found.end == PARTIAL
            if found.end > (NO if best is None else best.end):
                best = _Hit(pattern, found.end, found.name)
        return best, growing

    def _pass_on(self, text: str, parts: list[Part]) -> None:
        """Text or reasoning, but for the white space at its end."""
        body = text.rstrip(BLANKS)
        blanks = text[len(body) :]
        if body:
            body = "".join(self._blanks) + body
            body = body if self._keeps_blanks else body.lstrip(BLANKS)
            self._blanks, self._keeps_blanks, self._at_start = [], True, False
            parts.append(ReasoningPart(body) if self._in is _In.REASONING else TextPart(body))
        if blanks:
            self._blanks.append(blanks)

    def _take(self, hit: _Hit, parts: list[Part]) -> None:
        match hit.pattern.then:
            case Then.CALL:
                self._enter(_In.ARGUMENTS)
                self._begin_call(hit.pattern.spelling, hit.name, parts)
            case Then.THINK:
                self._enter(_In.REASONING)
            case Then.ANSWER:
                self._enter(_In.TEXT)
                self._at_start = True
            case Then.CALLS_END:
                self._enter(_In.TEXT)
            case Then.NOTHING:
                self._enter(self._in)

    def _begin_call(self, spelling: int, name: str, parts: list[Part]) -> None:
        assert self._form is not None
        self._spelling = spelling
        parts.append(CallStart(self.calls, self._new_id(), name))
        self.calls += 1
        if self._form.arguments == "xml":
            self._arguments = XmlArguments(self._tools[name].parameters)
        else:
            self._arguments = JsonArguments()
            self._arguments.push("{")
            parts.append(CallArguments(self.calls - 1, "{"))
