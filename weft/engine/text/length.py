"""A lower bound on a text's number of tokens, found without tokenizing more of it than the bound needs.

A text far longer than any context takes hundreds of milliseconds to tokenize; that it is too long shows much earlier.
"""

from __future__ import annotations

from collections.abc import Iterator

from weft.engine.text.tokenizer import Tokenizer

WINDOW = 8192
"""Characters tokenized at a time: about 10 ms where every character is a token."""
SLACK = 64
"""Tokens by which a window may count more than its part of the whole text: what lies at its two ends may be cut."""


def fewest_tokens(tokenizer: Tokenizer, text: str, enough: int) -> int:
    """The text has at least so many tokens; not looked at any further once that is `enough`."""
    found = 0
    for window in windows(text):
        found += max(0, len(tokenizer.encode(window, add_special_tokens=False)) - SLACK)
        if found >= enough:
            break
    return found


def windows(text: str) -> Iterator[str]:
    """The text in pieces of at most WINDOW characters, cut before a space where there is one in the last half."""
    start = 0
    while start < len(text):
        end = start + WINDOW
        if end < len(text):
            space = text.rfind(" ", start + WINDOW // 2, end)
            end = space if space > 0 else end
        yield text[start:end]
        start = end
