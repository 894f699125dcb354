"""Patterns of a form's fixed text, matched at a place of a text that may not have come whole yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from weft.compute.grammars.regexes import quoted

MOST_BLANKS = 64
"""Characters of white space that one place of a pattern may have; more is no match, so that a match stays short."""
MOST_LETTERS = 128
"""Characters of a name or an id."""
ID = rf"[a-zA-Z0-9_.:\/-]{{1,{MOST_LETTERS}}}"
"""An id, in a regular expression between slashes."""
BLANKS = " \n\t\r"
WIDE = rf"/[ \n\t\r]{{0,{MOST_BLANKS}}}/"
"""White space in a grammar, where text has led to a call: as much as what reads the answer takes."""
PUNCTUATION = "{}[]:,"
"""JSON's own: white space may stand around each."""
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/-")


class Wild(Enum):
    """What a pattern has beside fixed text: optional white space, the name of a tool, some id."""

    BLANK = "blank"
    NAME = "name"
    ID = "id"


Atom = str | Wild
NO, PARTIAL = -1, -2
"""Instead of an end: the text is something else; it ends inside the pattern."""


def atoms_of(text: str, tokens: Collection[str]) -> list[Atom]:
    """Fixed text as atoms: tokens, JSON's punctuation and words, with optional white space where it stands in `text`
    or beside punctuation. `$id` is an id."""
    atoms: list[Atom] = []
    at = 0
    while at < len(text):
        token = next((token for token in tokens if text.startswith(token, at)), None)
        if token is not None:
            _add(atoms, token)
            at += len(token)
        elif text.startswith("$id", at):
            _add(atoms, Wild.ID)
            at += len("$id")
        elif text[at] in BLANKS:
            _add(atoms, Wild.BLANK)
            at += 1
        elif text[at] in PUNCTUATION:
            for atom in (Wild.BLANK, text[at], Wild.BLANK):
                _add(atoms, atom)
            at += 1
        else:
            end = at + 1
            while end < len(text) and not _ends_word(text, end, tokens):
                end += 1
            _add(atoms, text[at:end])
            at = end
    return atoms


def _ends_word(text: str, at: int, tokens: Collection[str]) -> bool:
    special = text[at] in BLANKS or text[at] in PUNCTUATION or text.startswith("$id", at)
    return special or any(text.startswith(token, at) for token in tokens)


def _add(atoms: list[Atom], atom: Atom) -> None:
    if atom is not Wild.BLANK or atoms[-1:] != [Wild.BLANK]:
        atoms.append(atom)


def joined_atoms(*parts: Iterable[Atom]) -> list[Atom]:
    """Parts one after the other."""
    atoms: list[Atom] = []
    for part in parts:
        for atom in part:
            _add(atoms, atom)
    return atoms


@dataclass(frozen=True, slots=True)
class Found:
    """`end`: of the match, or NO or PARTIAL. `name`: of the tool, where the pattern has one."""

    end: int
    name: str = ""


def match_at(atoms: Sequence[Atom], text: str, at: int, names: Collection[str]) -> Found:
    """Whether `atoms` stand at `at`. A name must be one of `names`. Atoms never begin with white space and those after
    a name never with one of its characters, so that there is one way to match."""
    name = ""
    for atom in atoms:
        if atom is Wild.BLANK:
            end = at
            while end < len(text) and text[end] in BLANKS:
                end += 1
            if end - at > MOST_BLANKS:
                return Found(NO)
            at = end
        elif isinstance(atom, Wild):
            end = _word_end(text, at)
            word = text[at:end]
            if len(word) > MOST_LETTERS or (atom is Wild.NAME and not _may_be(word, names, end == len(text))):
                return Found(NO)
            if end == len(text):
                return Found(PARTIAL)
            name = word if atom is Wild.NAME else name
            at = end
        elif text.startswith(atom, at):
            at += len(atom)
        else:
            left = text[at:]
            return Found(PARTIAL if len(left) < len(atom) and atom.startswith(left) else NO)
    return Found(at, name)


def _word_end(text: str, at: int) -> int:
    while at < len(text) and text[at] in NAME_CHARACTERS:
        at += 1
    return at


def _may_be(word: str, names: Collection[str], growing: bool) -> bool:
    return any(name.startswith(word) for name in names) if growing else word in names


def first_fixed(atoms: Sequence[Atom]) -> int:
    """How many atoms there are up to the first that is fixed text, that one too."""
    return next((at for at, atom in enumerate(atoms, 1) if isinstance(atom, str)), len(atoms))


def pattern_of(atoms: Sequence[Atom]) -> str:
    """For a regular expression between slashes."""
    wild = {Wild.BLANK: r"\s*", Wild.ID: ID}
    return "".join(quoted(atom) if isinstance(atom, str) else wild[atom] for atom in atoms)


def unblanked(atoms: Sequence[Atom]) -> list[Atom]:
    """Without white space at the beginning."""
    return list(atoms[1:] if atoms[:1] == [Wild.BLANK] else atoms)
