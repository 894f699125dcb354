"""Text from files as it may be shown on a terminal: no control characters, no lines of its own, not too long."""

from __future__ import annotations

import unicodedata

LONGEST = 1000


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` in one line: what a terminal would not show as a character, such as an escape sequence or a change of
    writing direction, is written as Python writes it in a string. Cut after `longest` characters."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in cut)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay lines; nothing is cut."""
    return text if text.isprintable() else "\n".join(printable(line, len(line)) for line in text.split("\n"))


def without_controls(text: str) -> str:
    """Text that stays as it is, with the control characters but line ends and tabs written out."""
    return text if text.isprintable() else "".join(c if _harmless(c) else _escaped(c) for c in text)


def _harmless(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) != "Cc"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
