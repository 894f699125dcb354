"""Bad words as runs of ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_chat import CONFIG, write_tiny_chat
from weft.base.errors import RequestError
from weft.base.step.sampling_params import SamplingParams
from weft.engine.text import Tokenizer
from weft.engine.text.bad_words import bad_runs, with_bad_runs
from weft.model.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(write_tiny_chat(Path(tmp_path_factory.mktemp("tiny")))))


def test_a_word_is_its_own_tokens_once(tokenizer: Tokenizer) -> None:
    ab, a = tuple(tokenizer.encode("ab")), tuple(tokenizer.encode("a"))
    assert bad_runs(tokenizer, ["ab", " ab", "a"]) == (ab, a)  # a space is one more token here


def test_words_become_runs_and_must_leave_something(tokenizer: Tokenizer) -> None:
    vocab, a = CONFIG["vocab_size"], tokenizer.encode("a")[0]
    made = with_bad_runs(SamplingParams(bad_words=("a",), bad_token_ids=((1, 2),)), bad_runs(tokenizer, "a"), vocab)
    assert made.bad_words == () and made.bad_token_ids == ((1, 2), (a,))
    with pytest.raises(RequestError, match="allowed_token_ids leave no token"):
        with_bad_runs(SamplingParams(bad_words=("a",), allowed_token_ids=(a,)), [(a,)], vocab)
