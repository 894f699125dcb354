"""Tokenizers from model directories and GGUF metadata against transformers', on text of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from tests.support.checkpoints import (
    TEXT,
    make_checkpoint,
    make_gguf,
    make_tokenizer,
    read_once,
    small_config,
    smollm2,
    trained_tokenizer,
)
from weft.base.errors import CheckpointError
from weft.engine.text import Tokenizer
from weft.engine.text.pieces import byte_alphabet
from weft.engine.text.splits import PRE
from weft.model.checkpoint import open_checkpoint

Encode = Callable[[str], list[int]]
SAMPLES = [
    "",
    " ",
    "Hello world! 123",
    TEXT,
    "  two  spaces\n\n\nlines\r\n\ttabs   ",
    "don't we'll I'VE it's THEY'RE 's",
    "1234567890 ١٢٣ ⅷ ½ 3.14",
    "e\u0301 \u00e9 \ufb01 \u1100\u1161 \u200d\u200b\ufeff",
    "\u0000\u0001\x7f\u2028 \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea",
    "<|im_start|>user\nHi<|im_end|>\n <|im_end|> x",
    "a" * 300,
    "中文，没有空格。日本語テキスト",
]
WORDS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from([*"aZ9 '\n\t.,!-", "don't", "123", "  ", "é", "e\u0301", "中", "🙂", "\u200d", "Ġ", "▁"])
    ).map("".join),
)


def directory_tokenizer(path: Path, **config: Any) -> Tokenizer:
    make_tokenizer(make_checkpoint(path, small_config()), **config)
    return Tokenizer.from_checkpoint(open_checkpoint(path))


@cache
def embedded() -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(smollm2()))


@cache
def reference() -> Any:
    with read_once():
        tokenizer: Any = AutoTokenizer.from_pretrained(smollm2().parent, gguf_file=smollm2().name)
    tokenizer._tokenizer.pre_tokenizer = digits_apart()
    return tokenizer


def digits_apart() -> pre_tokenizers.PreTokenizer:
    """What `smollm` is in the model's own tokenizer.json; transformers' GGUF reader does not split digits."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def test_embedded_model_like_transformers_on_samples() -> None:
    for text in SAMPLES:
        ids = embedded().encode(text)
        assert ids == reference().encode(text), text
        assert embedded().decode(ids) == reference().decode(ids, skip_special_tokens=True), text
        assert embedded().decode(ids, skip_special_tokens=False) == reference().decode(ids), text


@settings(max_examples=150, deadline=None)
@given(text=WORDS)
def test_embedded_model_like_transformers(text: str) -> None:
    ids = embedded().encode(text)
    assert ids == reference().encode(text)
    assert embedded().decode(ids, skip_special_tokens=False) == reference().decode(ids)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30))
def test_any_ids_decode_like_transformers(ids: list[int]) -> None:
    assert embedded().decode(ids) == reference().decode(ids, skip_special_tokens=True)
    assert embedded().decode(ids, skip_special_tokens=False) == reference().decode(ids)


def test_embedded_models_words() -> None:
    tokenizer = embedded()
    assert tokenizer.vocab_size == 49152
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert tokenizer.token(905) == "Ġworld" and tokenizer.token_bytes(905) == b" world"
    assert tokenizer.token_bytes(2) == b"<|im_end|>" and tokenizer.token_id("<|im_end|>") == 2
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])
    chat = tokenizer.encode(prompt, add_special_tokens=False)
    assert chat[0] == 1 and chat == reference().apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False
    )


def test_bytes_of_all_tokens_make_the_text() -> None:
    assert b"".join(map(embedded().token_bytes, embedded().encode(TEXT))) == TEXT.encode()


def test_ids_outside_the_vocabulary_are_nothing() -> None:
    tokenizer = embedded()
    assert tokenizer.decode([905, 60_000, -1, 2**40]) == " world"
    assert tokenizer.token_bytes(60_000) == b"" and tokenizer.token(60_000) == ""


def test_byte_alphabet_is_gpt2s() -> None:
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@settings(max_examples=100, deadline=None)
@given(text=WORDS)
def test_tokenizer_json_like_transformers(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    ours, theirs = trained_pair(tmp_path_factory)
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


PAIRS: dict[Path, tuple[Tokenizer, Any]] = {}


def trained_pair(factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    path = factory.getbasetemp() / "trained"
    if path not in PAIRS:
        PAIRS[path] = directory_tokenizer(path), PreTrainedTokenizerFast.from_pretrained(path)
    return PAIRS[path]


def test_padding_and_truncation_of_the_file_are_off(tmp_path: Path) -> None:
    directory_tokenizer(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(tmp_path))
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_end_ids_come_from_every_file(tmp_path: Path) -> None:
    make_tokenizer(make_checkpoint(tmp_path, small_config(eos_token_id=7)), eos_token={"content": "<|end|>"})
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    assert Tokenizer.from_checkpoint(open_checkpoint(tmp_path)).eos_token_ids == (0, 7, 9)


def test_named_tokens_are_special_though_the_file_says_no(tmp_path: Path) -> None:
    directory_tokenizer(tmp_path)
    backend = trained_tokenizer()
    backend.add_tokens([AddedToken("<stop>", special=False, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<stop>"}))
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(tmp_path))
    ids = tokenizer.encode("one<stop> two")
    assert tokenizer.decode(ids) == "one two"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "one<stop> two"


def test_model_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer.from_checkpoint(open_checkpoint(make_checkpoint(tmp_path, small_config())))


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "1.0"}'])
def test_broken_tokenizer_json(tmp_path: Path, text: str) -> None:
    directory_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_checkpoint(open_checkpoint(tmp_path))


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), decoders.BPEDecoder(), decoders.Fuse(), None])
def test_other_decoders_are_refused_by_name(tmp_path: Path, decoder: Any) -> None:
    directory_tokenizer(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    settings = json.loads(backend.to_str())
    settings["decoder"] = json.loads(decoder.__getstate__()) if decoder else None
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=type(decoder).__name__ if decoder else "no decoder"):
        Tokenizer.from_checkpoint(open_checkpoint(tmp_path))


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_metaspace_like_the_library(tmp_path: Path, scheme: str) -> None:
    directory_tokenizer(tmp_path)
    letters = {letter: id for id, letter in enumerate(sorted(set(TEXT.replace(" ", "▁"))))}
    backend = Backend(models.BPE(vocab=letters | {"▁▁": len(letters)}, merges=[("▁", "▁")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(tmp_path))
    for text in (TEXT, " lead", "   lead", "none", "", " "):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == backend.decode(ids)


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback_like_the_library(tmp_path: Path, prefix: bool) -> None:
    """SentencePiece's spelling as converted models have it, on text and on any ids that are whole characters."""
    directory_tokenizer(tmp_path)
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b", "ab"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[("▁", "a"), ("▁", "b"), ("a", "b")], byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(tmp_path))
    for text in (*SAMPLES, "  ab  a", "ab ä b"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == backend.decode(ids) == text


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "smaug-bpe"])
def test_gguf_vocabularies_like_transformers(tmp_path: Path, pre: str) -> None:
    """The same vocabulary through transformers' GGUF reader; qwen2 through its own class, which also normalizes."""
    trained = trained_tokenizer(420)
    path = make_gguf(tmp_path / "m.gguf", small_config(vocab_size=420), tokenizer=trained, pre=pre)
    ours = Tokenizer.from_checkpoint(open_checkpoint(path))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    if pre == "qwen2":
        model = json.loads(trained.to_str())["model"]
        theirs = Qwen2Tokenizer(vocab=model["vocab"], merges=[cast(Any, tuple(merge)) for merge in model["merges"]])
    if pre == "smollm":
        theirs._tokenizer.pre_tokenizer = digits_apart()
    for text in SAMPLES:
        if "<|" not in text:
            assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False), text


def test_every_pre_gives_the_text_back(tmp_path: Path) -> None:
    for pre in PRE:
        path = make_gguf(tmp_path / "m.gguf", small_config(), tokenizer=trained_tokenizer(), pre=pre)
        tokenizer = Tokenizer.from_checkpoint(open_checkpoint(path))
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT, pre
