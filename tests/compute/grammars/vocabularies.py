"""Vocabularies of tests: every byte, some longer pieces, and added tokens, as llguidance sees them."""

from __future__ import annotations

from weft.base.step.vocabulary import Vocabulary

PIECES = (b'{"', b'":', b'": ', b'",', b'"}', b"true", b"false", b"null", b"name", b"age", b"  ", b"\n\n", b"aa", b"ab")
ADDED = (b"<|endoftext|>", b"<|im_end|>", b"<tool_call>")
END, IM_END = 256 + len(PIECES), 257 + len(PIECES)
"""Both end an answer."""
PADDING = 5
"""Ids of the logits that no token has."""


def small_vocabulary() -> Vocabulary:
    """All bytes, `PIECES`, `ADDED` and padding."""
    tokens = [bytes([byte]) for byte in range(256)] + [*PIECES, *ADDED] + [b""] * PADDING
    first = 256 + len(PIECES)
    return Vocabulary.of(tokens, range(first, first + len(ADDED)), (END, IM_END))
