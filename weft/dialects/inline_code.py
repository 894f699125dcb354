"""Code inside the sentences of a page, as a shell would find it. Knows no engine."""

from __future__ import annotations

import re

_INLINE = re.compile(r"(?m)(?<=[^\s`])([ \t]+)```([^`\n]+)```")


def inline_code(text: str) -> str:
    """Code between three backticks in the middle of a line as code between single ones, every column in its place."""
    return _INLINE.sub(r"\1  `\2`  ", text)
