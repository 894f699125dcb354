"""What a rank knows of the tokens: the bytes of each id. Plain record; the tokenizer makes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

END = np.dtype("<u4")
"""Dtype of `Vocabulary.ends`."""


class Vocabulary(msgspec.Struct, frozen=True):
    """The bytes of every id that logits have a column for, one after the other. `ends`: where each id's bytes end,
    little endian; an id without a token (padding of the vocabulary) has none. `added`: ids of added tokens, which no
    text consists of. `eos`: ids that end an answer, one or more."""

    text: bytes
    ends: bytes
    added: tuple[int, ...]
    eos: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Sequence[bytes], added: Sequence[int], eos: Sequence[int]) -> Vocabulary:
        """`tokens`: of each id, in order."""
        ends = np.cumsum([len(token) for token in tokens], dtype=END)
        return cls(b"".join(tokens), ends.tobytes(), tuple(sorted(added)), tuple(sorted(eos)))

    def __len__(self) -> int:
        """Ids, padding included."""
        return len(self.ends) // END.itemsize

    def tokens(self) -> list[bytes]:
        """The bytes of each id."""
        ends = np.frombuffer(self.ends, END).tolist()
        return [self.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
