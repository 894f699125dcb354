"""The patterns of a form of tool calls and a form of reasoning: what an answer's parser looks for, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from weft.frontend.chat.patterns import Atom, Wild, atoms_of, joined_atoms
from weft.frontend.chat.reasoning_forms import ReasoningForm
from weft.frontend.chat.tool_forms import ToolForm


class Then(Enum):
    """What a pattern's match means."""

    CALL = "a call's arguments begin"
    CALLS_END = "text may follow"
    THINK = "reasoning begins"
    ANSWER = "reasoning ends"
    NOTHING = "it is the form's own"


@dataclass(frozen=True, slots=True)
class Pattern:
    atoms: tuple[Atom, ...]
    then: Then
    spelling: int = 0
    """Of a call: which of the form's."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Patterns that may begin anywhere in a text, and the characters that they begin with."""

    patterns: tuple[Pattern, ...]
    firsts: frozenset[str]

    @classmethod
    def of(cls, *patterns: Pattern) -> Watched:
        return cls(patterns, frozenset(str(pattern.atoms[0])[0] for pattern in patterns))


@dataclass(frozen=True, slots=True)
class FormPatterns:
    """All of a form, by where they count."""

    text: Watched
    later_text: Watched
    """Text that is not the start of the answer."""
    reasoning: Watched
    after_call: tuple[tuple[Pattern, ...], ...]
    """By the call's spelling."""


@lru_cache(maxsize=64)
def patterns_of(form: ToolForm | None, reasoning: ReasoningForm | None) -> FormPatterns:
    tokens = (*(form.tokens if form else ()), *(reasoning.tokens if reasoning else ()))
    calls, after = _call_patterns(form, tokens) if form else ((), ())
    thinks, ends, own = _reasoning_patterns(reasoning, tokens) if reasoning else ((), (), ())
    later_calls = () if form is None or form.at_start else calls
    later_thinks = thinks if reasoning is not None and reasoning.anywhere else ()
    later = Watched.of(*later_calls, *later_thinks, *own)
    return FormPatterns(Watched.of(*calls, *thinks, *own), later, Watched.of(*ends), after)


def _call_patterns(
    form: ToolForm, tokens: Sequence[str]
) -> tuple[tuple[Pattern, ...], tuple[tuple[Pattern, ...], ...]]:
    opening: list[Atom] = [Wild.BLANK, "{"] if form.arguments == "json" else []
    heads, afters = [], []
    for call in form.calls:
        before, between, after = (atoms_of(part, tokens) for part in form.around(call))
        heads.append(joined_atoms(before, [Wild.NAME], between, opening))
        afters.append(after)
    begin, separator, end = (atoms_of(part, tokens) for part in (form.begin, form.separator, form.end))
    calls = tuple(
        Pattern(_trimmed(joined_atoms(begin, head)), Then.CALL, spelling) for spelling, head in enumerate(heads)
    )
    following = []
    for own_after in afters:
        closing = afters if form.joined else [own_after]
        ends = [(joined_atoms(after, end), Then.CALLS_END, 0) for after in closing]
        if form.joined:
            ends += [
                (joined_atoms(after, separator, head), Then.CALL, spelling)
                for after in afters
                for spelling, head in enumerate(heads)
            ]
        following.append(
            tuple(
                Pattern(tuple(joined_atoms([Wild.BLANK], atoms)), then, spelling)
                for atoms, then, spelling in ends
                if atoms
            )
        )
    return calls, tuple(following)


def _reasoning_patterns(
    form: ReasoningForm, tokens: Sequence[str]
) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...], tuple[Pattern, ...]]:
    begin = Pattern(_trimmed(atoms_of(form.begin, tokens)), Then.THINK)
    end = Pattern(_trimmed(atoms_of(form.end, tokens)), Then.ANSWER)
    own = [text for text in (form.then, *form.answer, form.end if form.then else "") if text]
    return (begin,), (end,), tuple(Pattern(_trimmed(atoms_of(text, tokens)), Then.NOTHING) for text in own)


def _trimmed(atoms: Sequence[Atom]) -> tuple[Atom, ...]:
    """Without white space at either end, which text has of its own."""
    start = 1 if atoms[:1] == [Wild.BLANK] else 0
    end = len(atoms) - (1 if atoms[-1:] == [Wild.BLANK] else 0)
    return tuple(atoms[start:end])
