"""The lower bound on a text's tokens: never above what tokenizing finds, and found without tokenizing it all."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import smollm2, trained_tokenizer
from weft.engine.text import Tokenizer, length
from weft.engine.text.length import fewest_tokens, windows
from weft.model.checkpoint import open_checkpoint

EVERYTHING = 1 << 60


@cache
def embedded() -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(smollm2()))


@cache
def sentencepiece() -> Tokenizer:
    """Whole texts are one word for this kind: a cut may fall anywhere."""
    return Tokenizer(trained_tokenizer(), named={}, templates={})


PIECES = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["word ", "7", "the ", "a" * 40, "ab" * 30, " " * 50, "\n\n", "<|im_end|>", "漢字", "don't ", "é"]
        ),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("kind", [embedded, sentencepiece])
def test_never_more_than_there_are(kind: Callable[[], Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "WINDOW", 256)
    tokenizer = kind()

    @settings(max_examples=150, deadline=None)
    @given(pieces=PIECES, times=st.integers(1, 40))
    def check(pieces: list[str], times: int) -> None:
        text = "".join(pieces) * times
        assert fewest_tokens(tokenizer, text, EVERYTHING) <= len(tokenizer.encode(text, add_special_tokens=False))

    check()


@pytest.mark.parametrize(
    "alphabet", ["ab", "abcdefghijklmnopqrstuvwxyz", "aeiou ", "0123456789", "!?.-", "the an ing "]
)
def test_words_without_an_end_are_not_counted_too_high(alphabet: str) -> None:
    draw = random.Random(alphabet)
    text = "".join(draw.choices(alphabet, k=5 * length.WINDOW))
    found, tokens = fewest_tokens(embedded(), text, EVERYTHING), len(embedded().encode(text))
    assert 0.8 * tokens - 6 * length.SLACK <= found <= tokens


@given(text=st.text(alphabet="ab  \n", max_size=400))
def test_windows_are_the_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "WINDOW", 16)
        parts = list(windows(text))
    assert "".join(parts) == text and all(0 < len(part) <= 16 for part in parts)


def test_no_more_is_tokenized_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    encode = Tokenizer.encode

    def counted(self: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
        looked_at.append(len(text))
        return encode(self, text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    assert fewest_tokens(embedded(), "7" * 1_000_000, 8192) >= 8192
    assert sum(looked_at) <= 2 * length.WINDOW
