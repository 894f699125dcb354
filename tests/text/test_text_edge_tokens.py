"""BOS and EOS around a text: flags of tokenizer_config.json beside tokenizer.json's post-processor.

transformers 5 runs here; what transformers 4.57 gave for the same files was written down once, in an environment of its
own (`data/bos_flags_4.json`). The version in config.json says whose rule a directory follows.
"""

from __future__ import annotations

import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tests.support.checkpoints import make_checkpoint, small_config
from weft.checkpoint.checkpoint import Checkpoint
from weft.checkpoint.safetensors.text_files import read_text_files
from weft.text import Tokenizer

FOUR = json.loads((Path(__file__).parent / "data" / "bos_flags_4.json").read_text())
RULES = ("", "b", "e", "be")
CASES = tuple(itertools.product(RULES, (None, False, True), (None, False, True)))
"""What the post-processor adds; add_bos_token; add_eos_token. The order of the strings in FOUR: each digit is 1 for a
BOS, and 2 more for an EOS."""


@cache
def backend(rule: str) -> str:
    """A tokenizer.json of single bytes whose post-processor adds BOS ("b"), EOS ("e") or both."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: number + 2 for number, letter in enumerate(alphabet)}}
    made = Backend(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if rule:
        single = ("<s> " if "b" in rule else "") + "$A" + (" </s>" if "e" in rule else "")
        specials = [(name, id) for name, id in (("<s>", 0), ("</s>", 1)) if name in single]
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)
    return str(made.to_str())


def write(path: Path, model: dict[str, Any], kind: str, rule: str, bos: bool | None, eos: bool | None) -> None:
    flags = {"add_bos_token": bos, "add_eos_token": eos, "tokenizer_class": kind or None}
    words = {"bos_token": "<s>", "eos_token": "</s>", **{k: v for k, v in flags.items() if v is not None}}
    (path / "tokenizer.json").write_text(backend(rule))
    (path / "tokenizer_config.json").write_text(json.dumps(words))
    (path / "config.json").write_text(json.dumps(model))


def around(path: Path, model: dict[str, Any]) -> tuple[str, list[str]]:
    """The digit of what stands around a text, and what is said of it."""
    problems: list[str] = []
    notes: list[str] = []
    source = read_text_files(path, model, problems, notes)
    ids = Tokenizer.from_checkpoint(Checkpoint(str(path), "safetensors", model, {}, tokenizer=source)).encode("ab")
    assert not problems
    return str((ids[0] == 0) + 2 * (ids[-1] == 1)), notes


@pytest.mark.parametrize("which", FOUR["around"])
def test_files_of_transformers_4(tmp_path: Path, which: str) -> None:
    family, _, kind = which.partition(" ")
    model = {"model_type": family, "transformers_version": FOUR["transformers"]}
    for (rule, bos, eos), wanted in zip(CASES, FOUR["around"][which], strict=True):
        write(tmp_path, model, kind, rule, bos, eos)
        assert around(tmp_path, model)[0] == wanted, (rule, bos, eos)


@pytest.mark.parametrize("kind", ["", "PreTrainedTokenizerFast", "LlamaTokenizer", "TokenizersBackend"])
def test_files_of_transformers_5(tmp_path: Path, kind: str) -> None:
    model = {"model_type": "llama", "transformers_version": "5.0.0"}
    for rule, bos, eos in CASES:
        write(tmp_path, model, kind, rule, bos, eos)
        ids = AutoTokenizer.from_pretrained(tmp_path).encode("ab")
        found, notes = around(tmp_path, model)
        assert found == str((ids[0] == 0) + 2 * (ids[-1] == 1)), (rule, bos, eos)
        assert bool(notes) == (bos is not None or eos is not None)


def test_a_directory_without_a_version_follows_transformers_5(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "llama"}, "LlamaTokenizer", "", True, None)
    assert around(tmp_path, {"model_type": "llama"})[0] == "0"


def test_tokens_of_one_file_only_are_known(tmp_path: Path) -> None:
    """As in transformers: special_tokens_map.json, added_tokens.json, and added_tokens_decoder of the config."""
    make_checkpoint(tmp_path / "m", small_config())
    model = {"model_type": "llama", "transformers_version": "5.0.0"}
    for name, words in (
        ("special_tokens_map.json", {"pad_token": "!", "additional_special_tokens": ["#"]}),
        ("added_tokens.json", {"<new>": 258}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"258": {"content": "<own>", "special": True}}}),
    ):
        place = tmp_path / name
        place.mkdir()
        write(place, model, "PreTrainedTokenizerFast", "b", None, None)
        old = json.loads((place / name).read_text()) if (place / name).exists() else {}
        (place / name).write_text(json.dumps({**old, **words}))
        theirs, source = AutoTokenizer.from_pretrained(place), read_text_files(place, model, [], [])
        mine = Tokenizer.from_checkpoint(Checkpoint(str(place), "safetensors", model, {}, tokenizer=source))
        text = "a!b#c<new>d<own>e</s>"
        assert mine.encode(text) == theirs.encode(text), name
        for skip in (True, False):
            ids = theirs.encode(text)
            assert mine.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip), name
        shutil.rmtree(place)


def test_files_of_a_tokenizer_keep_what_it_adds(tmp_path: Path) -> None:
    """Also where the files that it came from said so elsewhere, as a GGUF does."""
    model = {"model_type": "llama", "transformers_version": FOUR["transformers"]}
    for bos, eos in ((False, False), (True, False), (True, True)):
        write(tmp_path, model, "LlamaTokenizer", "", bos, eos)
        source = read_text_files(tmp_path, model, [], [])
        old = Tokenizer.from_checkpoint(Checkpoint(str(tmp_path), "safetensors", model, {}, tokenizer=source))
        for name, text in old.as_files().items():
            (tmp_path / name).write_text(text)
        assert around(tmp_path, {"model_type": "llama"})[0] == str(bos + 2 * eos)
