"""Python expressions in a text, parsed without running them and without warnings on stderr."""

from __future__ import annotations

import ast
import warnings


def expression(text: str) -> ast.expr | None:
    """The expression that a text is; None when it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in pasted text is no news
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def literal(text: str) -> object:
    """The plain value that a text is; ValueError when it is none."""
    node = expression(text)
    if node is None:
        raise ValueError(text)
    return plain(node)


def plain(node: ast.expr) -> object:
    """The plain value of an expression; ValueError when it has none."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError("no plain value") from None
