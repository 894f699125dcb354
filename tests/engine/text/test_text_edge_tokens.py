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
from weft.base.errors import CheckpointError
from weft.engine.text import Tokenizer
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.safetensors.text_files import read_text_files

FOUR = json.loads((Path(__file__).parent / "data" / "bos_flags_4.json").read_text())
RULES = ("", "b", "e", "be")
CASES = tuple(itertools.product(RULES, (None, False, True), (None, False, True)))
"""What the post-processor adds; add_bos_token; add_eos_token. The order of the strings in FOUR: each digit is 1 for a
BOS, and 2 more for an EOS."""


SPECIAL, PLAIN = ("<s>", "</s>", "<x>", "<y>"), "<p>"
AROUND = (
    "<s> $A", "$A </s>", "<s> <x> $A", "<x> $A", "$A <x>", "<x> $A <y>", "<s> $A <x>", "<s> <s> $A", "<s> $A </s> <x>",
    "<x> <s> $A", "$A <s>", "</s> $A", "<s> $A <s>", "</s> <x> $A", "<x> </s> $A", "$A <p>",
)  # fmt: skip
"""Rules of post-processors, `$A` being the text."""
TEXTS = ("ab", " a <x> b<y>c <p> d </s>  e", "<s>x</s>", "it 's ok . no")


def single_bytes(single: str = "") -> Backend:
    """A tokenizer of single bytes with SPECIAL tokens and one PLAIN; `single`: its post-processor's rule."""
    names = (*SPECIAL, PLAIN)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate((*names, *alphabet))}
    made = Backend(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    made.add_tokens([AddedToken(PLAIN, special=False, normalized=False)])
    if single:
        specials = [(name, vocabulary[name]) for name in names if name in single]
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)
    return made


@cache
def backend(rule: str) -> str:
    """A tokenizer.json whose post-processor adds BOS ("b"), EOS ("e") or both."""
    single = ("<s> " if "b" in rule else "") + "$A" + (" </s>" if "e" in rule else "")
    return str(single_bytes(single if rule else "").to_str())


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


MODEL = {"model_type": "llama", "transformers_version": "5.0.0"}
BASE: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}


def put(path: Path, made: Backend, words: dict[str, Any], **files: dict[str, Any]) -> None:
    (path / "tokenizer.json").write_text(made.to_str())
    for name, content in {"config": MODEL, "tokenizer_config": {**BASE, **words}, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))


def read(path: Path, **config: Any) -> Tokenizer:
    source = read_text_files(path, MODEL, [], [])
    return Tokenizer.from_checkpoint(Checkpoint(str(path), "safetensors", {**MODEL, **config}, {}, tokenizer=source))


def compare(path: Path, texts: tuple[str, ...] = TEXTS) -> None:
    """Ids, texts and tokens that templates name are those of transformers."""
    mine, theirs = read(path), AutoTokenizer.from_pretrained(path)
    assert mine.chat_templates.variables == theirs.special_tokens_map
    for text in texts:
        ids = theirs.encode(text)
        assert mine.encode(text) == ids, text
        for skip in (True, False):
            assert mine.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip), text


@pytest.mark.parametrize("single", AROUND)
def test_tokens_of_a_post_processor_stand_where_it_puts_them(tmp_path: Path, single: str) -> None:
    put(tmp_path, single_bytes(single), {})
    compare(tmp_path)
    for name, text in read(tmp_path).as_files().items():
        (tmp_path / name).write_text(text)
    compare(tmp_path)


FLAGGED = {"content": "<p>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {"4": {"content": "<p>", "special": True}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"2": {"content": "<x>", "special": False}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"4": {**FLAGGED, "special": False}}}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "<p>"}}},
        {"tokenizer_config": {"extra_special_tokens": ["<p>"]}},
        {"tokenizer_config": {"image_token": "<p>"}},
        {"tokenizer_config": {"model_specific_special_tokens": {"image_token": "<p>"}}},
        {"tokenizer_config": {"pad_token": {"__type": "AddedToken", **FLAGGED, "special": True}}},
        {"special_tokens_map": {"image_token": "<p>"}},
        {"special_tokens_map": {"extra_special_tokens": {"image_token": "<p>"}}},
        {"tokenizer_config": {"split_special_tokens": True}},
        {"tokenizer_config": {"clean_up_tokenization_spaces": True}},
    ],
    ids=str,
)
def test_switches_of_tokens_are_those_of_transformers(tmp_path: Path, files: dict[str, Any]) -> None:
    others = {name: words for name, words in files.items() if name != "tokenizer_config"}
    put(tmp_path, single_bytes("<s> $A"), files.get("tokenizer_config", {}), **others)
    compare(tmp_path)


def test_what_decoding_would_take_away_is_refused(tmp_path: Path) -> None:
    """A stream of pieces cannot take back the space that it has sent."""
    letters = [("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz.',")]
    made = Backend(models.Unigram(letters, 0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    put(tmp_path, made, {"bos_token": None, "eos_token": None, "unk_token": "<unk>"})
    compare(tmp_path, ("it 's ok . no",))
    put(tmp_path, made, {"unk_token": "<unk>", "clean_up_tokenization_spaces": True})
    with pytest.raises(CheckpointError, match="clean_up_tokenization_spaces True: legal: false; .* a Unigram model"):
        read(tmp_path)


def test_ids_around_a_text_are_tokens_with_a_row(tmp_path: Path) -> None:
    put(tmp_path, single_bytes("<x> $A"), {})
    assert read(tmp_path, vocab_size=400).notes == ()
    (note,) = read(tmp_path, vocab_size=100).notes
    assert note.startswith("the tokenizer has 261 tokens, the embedding 100 rows (vocab_size)")
    source = read_text_files(tmp_path, MODEL, [], [])
    words = {"vocab_size": 400, "eos_token_id": [1, 999]}
    made = Tokenizer.from_checkpoint(Checkpoint(str(tmp_path), "safetensors", words, {}, tokenizer=source))
    assert made.notes == ("no answer ends with token 999 (eos): the embedding has 400 rows (vocab_size)",)
    with pytest.raises(CheckpointError, match="adds token id 2 to every text; the embedding has 2 rows"):
        read(tmp_path, vocab_size=2)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["post_processor"]["special_tokens"]["<x>"]["ids"] = [99999]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="post_processor adds token id 99999 to every text, which is no token"):
        read(tmp_path)


BOMBS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 24},
     "normalizer: it makes 1.68e.09 characters of 100; legal: 256 times"),
    ({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y" * 1000}, "normalizer: it makes 1e.05 characters"),
    ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "b" * 1000}] * 30}, "normalizer: it makes"),
    ({"type": "Prepend", "prepend": "b" * 10**6}, "normalizer: Prepend writes 1000000 characters; legal: 1024"),
)  # fmt: skip


@pytest.mark.parametrize(("normalizer", "words"), BOMBS, ids=range(len(BOMBS)))
def test_a_step_that_would_fill_the_memory_is_refused(tmp_path: Path, normalizer: dict[str, Any], words: str) -> None:
    put(tmp_path, single_bytes(), {})
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**whole, "normalizer": normalizer}))
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path)


def test_merges_that_lack_the_prefix_of_the_file_are_refused(tmp_path: Path) -> None:
    """The library cuts so many bytes off, and ends the process where they end in a character."""
    put(tmp_path, single_bytes(), {})
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["model"] |= {"continuing_subword_prefix": "x", "merges": [["Ġ", "Ģ"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="merge .'Ġ', 'Ģ'.: .* does not begin with continuing_subword_prefix 'x'"):
        read(tmp_path)


def test_added_tokens_with_a_gap_between_their_ids_are_refused_by_file(tmp_path: Path) -> None:
    put(tmp_path, single_bytes(), {}, added_tokens={"<n>": 300})
    with pytest.raises(CheckpointError, match="added_tokens.json: token '<n>' has id 300, .* can only have 261"):
        read(tmp_path)


def test_a_directory_without_a_version_follows_transformers_5(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "llama"}, "LlamaTokenizer", "", True, None)
    assert around(tmp_path, {"model_type": "llama"})[0] == "0"


def test_tokens_of_one_file_only_are_known(tmp_path: Path) -> None:
    """As in transformers: special_tokens_map.json, added_tokens.json, and added_tokens_decoder of the config."""
    make_checkpoint(tmp_path / "m", small_config())
    model = {"model_type": "llama", "transformers_version": "5.0.0"}
    for name, words in (
        ("special_tokens_map.json", {"pad_token": "!", "additional_special_tokens": ["#"]}),
        ("added_tokens.json", {"<new>": 261}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"261": {"content": "<own>", "special": True}}}),
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
