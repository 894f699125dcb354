"""GGUF vocabularies: SentencePiece's greedy merging against a plain one, splitting rules against theirs, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from tests.support.checkpoints import make_gguf, small_config, trained_tokenizer
from weft.base.errors import CheckpointError
from weft.engine.text import Tokenizer
from weft.engine.text.gguf_vocabulary import adds_bos, gguf_tokenizer
from weft.engine.text.splits import PRE
from weft.model.checkpoint import open_checkpoint

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
PIECES = "▁ a b n t é an ▁a na ana ▁an ▁b ban ▁ban nt ant ▁▁ ▁▁▁ tt".split()


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    """A vocabulary as SentencePiece numbers it: <unk>, <s>, </s>, bytes, then pieces by falling score."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<user>"]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(PIECES), USER_DEFINED]
    scores = [0.0] * 259 + [float(-rank) for rank in range(len(PIECES))] + [0.0]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "token_type": kinds,
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def greedy(text: str, metadata: dict[str, Any]) -> list[int]:
    """SentencePiece's BPE as published: while two neighbours make a piece, join the best-scored, leftmost pair."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    score = {token: scores[id] for id, token in enumerate(tokens) if token in PIECES}
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-score[a + b], at) for at, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False)) if a + b in score
        ]
        if not pairs:
            break
        at = min(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    ids = []
    for symbol in symbols:
        known = symbol in score
        ids += [tokens.index(symbol)] if known else [3 + byte for byte in symbol.encode()]
    return ids


LETTERS = st.text(st.sampled_from(list("  abntté中\n")), max_size=40)


@settings(max_examples=200, deadline=None)
@given(text=LETTERS)
def test_sentencepiece_is_greedy_merging(text: str) -> None:
    metadata = sentencepiece_metadata()
    backend = gguf_tokenizer(metadata)
    ids = backend.encode(text, add_special_tokens=False).ids
    assert ids == (greedy(" " + text, metadata) if text else [])
    assert backend.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(text=LETTERS)
def test_without_the_space_in_front(text: str) -> None:
    metadata = sentencepiece_metadata(add_space_prefix=False)
    backend = gguf_tokenizer(metadata)
    assert backend.encode(text, add_special_tokens=False).ids == greedy(text, metadata)


def test_control_and_user_defined_tokens_are_matched_whole() -> None:
    backend = gguf_tokenizer(sentencepiece_metadata())
    last = 259 + len(PIECES)
    assert backend.encode("</s><user>", add_special_tokens=False).ids == [2, last]
    special = {id: token.special for id, token in backend.get_added_tokens_decoder().items()}
    assert special == {1: True, 2: True, last: False}


def test_merges_of_the_file_win_over_scores() -> None:
    metadata = sentencepiece_metadata(merges=["t t"])
    backend = gguf_tokenizer(metadata)
    assert backend.encode("att", add_special_tokens=False).tokens == ["▁", "a", "tt"]


def by_regex(expression: str, text: str) -> list[str]:
    """Matches and what lies between them."""
    parts, at = [], 0
    for match in regex.finditer(expression, text):
        parts += [text[at : match.start()], match.group()]
        at = match.end()
    return [part for part in (*parts, text[at:]) if part]


@pytest.mark.parametrize("name", PRE)
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from(list("aB9é ½٣中ǅ\n\r\t'!.=_🙂\u0301s")), max_size=30))
def test_splits_are_their_expressions_one_after_the_other(name: str, text: str) -> None:
    """An independent regex engine gives the same pieces."""
    pieces = [text] if text else []
    for expression in PRE[name].splits:
        pieces = [part for piece in pieces for part in by_regex(expression, piece)]
    metadata = byte_level_metadata(pre=name)
    split = gguf_tokenizer(metadata).pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    wanted = [alphabet.pre_tokenize_str(piece)[0][0] for piece in pieces]
    assert [part for part, _ in split.pre_tokenize_str(text)] == wanted


@pytest.mark.parametrize("name", sorted(PRE.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys()))
def test_expressions_are_transformers(name: str) -> None:
    assert PRE[name].splits == (GGUF_PRE_TOKENIZER_SPLITS[name],)


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc", "<end>"]
    kinds = [NORMAL] * 258 + [CONTROL]
    merges = ["a b", "ab c"]
    metadata = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": kinds, "merges": merges, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def test_a_piece_that_is_a_token_need_not_be_merged() -> None:
    """llama-bpe: `ignore_merges`."""
    assert gguf_tokenizer(byte_level_metadata(pre="llama-bpe", merges=[])).encode("abc").tokens == ["abc"]
    assert gguf_tokenizer(byte_level_metadata(pre="smaug-bpe", merges=[])).encode("abc").tokens == ["a", "b", "c"]


def test_only_qwen_normalizes() -> None:
    decomposed, composed = "e\u0301", "\u00e9"
    for name in PRE:
        backend = gguf_tokenizer(byte_level_metadata(pre=name))
        same = backend.encode(decomposed).ids == backend.encode(composed).ids
        assert same == (name in ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "qwen35"))


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        (byte_level_metadata(), False),
        (byte_level_metadata(pre="llama-bpe"), True),
        (byte_level_metadata(pre="llama-bpe", add_bos_token=False), False),
        (byte_level_metadata(add_bos_token=True), True),
        (sentencepiece_metadata(), True),
        (sentencepiece_metadata(add_bos_token=False), False),
    ],
)
def test_who_adds_bos(metadata: dict[str, Any], wanted: bool) -> None:
    assert adds_bos(metadata) is wanted


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "tokenizer.ggml.model None is not supported; supported: gpt2, llama"),
        (byte_level_metadata(model="bert"), "'bert' is not supported"),
        (byte_level_metadata(pre="chameleon"), "tokenizer.ggml.pre 'chameleon' is not supported; supported: default"),
        (byte_level_metadata(model="y\x1b" * 10**5), "tokenizer.ggml.model 'y"),
        (byte_level_metadata(pre=["y"] * 10**5), "tokenizer.ggml.pre with 100000 entries is not supported"),
        (byte_level_metadata(tokens=None), "tokenizer.ggml.tokens: missing"),
        (byte_level_metadata(tokens=[1, 2]), "tokenizer.ggml.tokens: a list of str is needed"),
        (byte_level_metadata(token_type=[1]), "tokenizer.ggml.token_type: 1 types for 259 tokens"),
        (byte_level_metadata(token_type=3), "tokenizer.ggml.token_type: a list of int is needed"),
        (byte_level_metadata(merges=["x y z"]), "tokenizer.ggml.merges do not fit"),
        (byte_level_metadata(merges=["xx"]), "tokenizer.ggml.merges do not fit"),
        (byte_level_metadata(merges=[3]), "tokenizer.ggml.merges: a list of str is needed"),
        (sentencepiece_metadata(scores=[1.0]), "tokenizer.ggml.scores: 1 scores for"),
        (sentencepiece_metadata(scores=None), "tokenizer.ggml.scores: 0 scores for"),
        (sentencepiece_metadata(unknown_token_id=10**6), "tokenizer.ggml.unknown_token_id: 1000000"),
    ],
)
def test_vocabularies_that_cannot_be(metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        gguf_tokenizer(metadata)
    assert words in str(caught.value) and len(str(caught.value)) < 1100


@pytest.mark.parametrize("word", ["bos", "eos", "padding", "unknown"])
@pytest.mark.parametrize("id", [300, 2**32 - 1])
def test_named_ids_outside_the_vocabulary_name_nothing(tmp_path: Path, word: str, id: int) -> None:
    metadata = {f"tokenizer.ggml.{word}_token_id": id}
    path = make_gguf(tmp_path / "m.gguf", small_config(), metadata={**byte_level_metadata(), **metadata})
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(path))
    assert tokenizer.encode("ab") == [258 - 2]
    assert tokenizer.bos_token_id is None


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(), tokenizer=trained_tokenizer(), pre="chameleon")
    with pytest.raises(CheckpointError, match=r"m\.gguf: tokenizer\.ggml\.pre 'chameleon'"):
        Tokenizer.from_checkpoint(open_checkpoint(path))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_metadata_is_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-vocabulary"
    plain, path = folder / "plain.gguf", folder / "damaged.gguf"
    if not plain.exists():
        make_gguf(plain, small_config(num_hidden_layers=1), tokenizer=trained_tokenizer(270), metadata=TEMPLATE)
    whole = plain.read_bytes()
    start = min(tensor.offset for tensor in open_checkpoint(plain).tensors.values())
    at = data.draw(st.integers(whole.index(b"tokenizer."), start))
    change = data.draw(st.binary(min_size=1, max_size=9))
    path.write_bytes(whole[:at] + change + whole[at + len(change) :])
    try:
        tokenizer = Tokenizer.from_checkpoint(open_checkpoint(path))
    except CheckpointError:
        return
    tokenizer.decode(tokenizer.encode("some text, 123"))


TEMPLATE = {"tokenizer.chat_template": "{{ messages }}"}
