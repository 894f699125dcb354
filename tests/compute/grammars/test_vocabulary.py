"""The vocabulary that grammars are over: the bytes of the library's own reading of a tokenizer, for both kinds."""

from __future__ import annotations

import json
from pathlib import Path

import llguidance
import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from tests.support.tiny_chat import write_tiny_chat
from weft.compute.grammars.base import Automaton
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.compute.sampling.grammar_masks import as_bools
from weft.engine.text import Tokenizer
from weft.model.checkpoint import embedded_model, open_checkpoint


def spm() -> Tokenizer:
    """A vocabulary spelled as SentencePiece's, with bytes."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ä",
        "▁▁",
        "▁ab",
    ]
    backend = Backend(
        models.BPE({token: id for id, token in enumerate(tokens)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>", "[TOOL]")])
    return Tokenizer(backend, named={"eos_token": "</s>"}, templates={}, eos_token_ids=(2,))


def byte_level(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(write_tiny_chat(tmp_path)))


@pytest.mark.parametrize("kind", ["byte-level", "SPM", "embedded"])
def test_bytes_are_those_of_the_librarys_own_reading(kind: str, tmp_path: Path) -> None:
    if kind == "embedded":
        tokenizer = Tokenizer.from_checkpoint(open_checkpoint(embedded_model()))
    else:
        tokenizer = spm() if kind == "SPM" else byte_level(tmp_path)
    own = llguidance.LLTokenizer(tokenizer.as_files()["tokenizer.json"])
    size = tokenizer.vocab_size
    vocabulary = tokenizer.vocabulary(size + 7)
    assert vocabulary is not None and len(vocabulary) == size + 7
    tokens = vocabulary.tokens()
    assert tokens == [tokenizer.token_bytes(id) for id in range(size + 7)]
    for id in range(size):
        if id not in vocabulary.added and tokens[id] != b"\xff":  # which the library keeps for itself; no text has it
            assert own.decode_bytes([id]) == tokens[id], id
    assert tokens[size:] == [b""] * 7


@pytest.mark.parametrize("kind", ["byte-level", "SPM"])
def test_added_tokens_are_tokens_and_never_text(kind: str, tmp_path: Path) -> None:
    tokenizer = spm() if kind == "SPM" else byte_level(tmp_path)
    other = 1 if kind == "SPM" else 256
    vocabulary = tokenizer.vocabulary(tokenizer.vocab_size + 3, (other,))
    assert vocabulary is not None and set(vocabulary.eos) == {*tokenizer.eos_token_ids, other}
    compiler, tokens = LLGuidanceCompiler(vocabulary), vocabulary.tokens()
    for id in vocabulary.added:
        automaton = compiler.compile(f"start: <[{id}]>")
        assert allowed(automaton, len(vocabulary)) == {id}
        text = tokens[id].decode()
        spelled = compiler.compile(f"start: {json.dumps(text)}")
        assert id not in allowed(spelled, len(vocabulary))
    free = allowed(compiler.compile("start: /(.|\\n)*/"), len(vocabulary))
    assert free & {*vocabulary.added} == {*vocabulary.eos}
    assert not free & {*range(tokenizer.vocab_size, tokenizer.vocab_size + 3)}


def allowed(automaton: Automaton, size: int) -> set[int]:
    mask = np.zeros(-(-size // 32), np.uint32)
    automaton.fill(mask)
    return {int(id) for id in as_bools(mask, size).nonzero()[0]}


def test_a_tokenizer_without_an_end_has_no_grammars() -> None:
    backend = spm()._backend
    assert Tokenizer(backend, named={}, templates={}).vocabulary(10) is None
