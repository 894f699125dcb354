"""Records of shell text: pieces of a word, words, commands; and text with typographic characters made plain."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from weft.tools.dialects.base import Diagnostic, Where

_SUBSTITUTES = str.maketrans(
    {"\u00a0": " ", "\u202f": " ", "\u201c": '"', "\u201d": '"', "\u200b": None, "\ufeff": None}
)
_SMART = re.compile("\u2018([^\u2018\u2019\n]*)\u2019")

WordPartKind = Literal["text", "variable", "command", "arithmetic"]


_TEMPLATE = re.compile(
    r"\{\{-?\s*\.?([A-Za-z_][\w.]*)\s*(?:\|\s*default[\s(]+[\"']?([\w./:-]+)[\"']?\s*\)?\s*)?(?:\|[^{}\n]*)?-?\}\}"
)


@dataclass(frozen=True, slots=True)
class WordPart:
    """Part of a word: literal text, or something that the shell fills in (`text` is what stands inside)."""

    kind: WordPartKind
    text: str
    quoted: bool = False


@dataclass(slots=True)
class RawWord:
    """A word before variables are filled in."""

    where: Where
    pieces: list[WordPart] = field(default_factory=list)
    quoted: bool = False

    @property
    def literal(self) -> str:
        """The literal text that it starts with."""
        return self.pieces[0].text if self.pieces and self.pieces[0].kind == "text" else ""


@dataclass(slots=True)
class RawCommand:
    """A simple command: words, where its output goes, its heredoc, and the comment above it."""

    words: list[RawWord] = field(default_factory=list)
    redirects: list[tuple[str, RawWord | None]] = field(default_factory=list)
    heredoc: tuple[str, int, bool] | None = None
    """Text, line of its first line, and whether variables stand for themselves."""
    comment: str = ""
    notes: list[Diagnostic] = field(default_factory=list)
    blank_before: bool = False
    commented: bool = False
    """A comment stands after its last word."""
    end: str = "\n"


def templated(text: str) -> str:
    """Text with a template's names as variables: {{ tp }}, {{ .Values.tp }}, {{ tp | default(2) }}."""
    return _TEMPLATE.sub(_as_variable, text)


def _as_variable(match: re.Match[str]) -> str:
    if match[2]:
        return f"${{{match[1]}:-{match[2]}}}"
    return f"$({match[1]})" if "." in match[1] else f"${{{match[1]}}}"


def normalized(text: str) -> tuple[str, list[Diagnostic]]:
    """Text with typographic quotes and blanks as a terminal has them."""
    text = templated(text.replace("\r\n", "\n").replace("\r", "\n"))
    plain = _SMART.sub(r"'\1'", text).translate(_SUBSTITUTES)
    if '"' in plain and "\u201c" in text or "\u2018" in text and plain != text:
        return plain, [Diagnostic("info", "typography", "typographic quotes were read as plain ones")]
    return plain, []
