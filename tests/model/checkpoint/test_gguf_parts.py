"""GGUF models in parts: what the package's writer splits is the whole model; parts that are missing or strange."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from tests.support.checkpoints import make_gguf, small_config, trained_tokenizer
from weft.base.errors import CheckpointError
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.weights.loader import load_params
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

CONFIG = small_config()


def parts(folder: Path, **options: Any) -> list[Path]:
    first = make_gguf(folder / "m.gguf", CONFIG, tokenizer=trained_tokenizer(), part_tensors=8, **options)
    return sorted(first.parent.glob("*.gguf"))


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.problems


def loaded(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    shards = Shards(parse_config(checkpoint.config), resolve({}))
    params = load_params(checkpoint, shards.specs, shards, 0, torch.float32).params
    return {name: each for name, each in params.items() if isinstance(each, torch.Tensor)}


def test_any_part_is_the_whole_model(tmp_path: Path) -> None:
    found = parts(tmp_path / "parts", qtype="Q8_0")
    whole = open_checkpoint(make_gguf(tmp_path / "m.gguf", CONFIG, tokenizer=trained_tokenizer(), qtype="Q8_0"))
    assert len(found) == 3
    wanted = loaded(whole)
    for path in found:
        checkpoint = open_checkpoint(path)
        assert (checkpoint.config, checkpoint.tokenizer) == (whole.config, whole.tokenizer)
        assert checkpoint.states.keys() == {*map(str, found)} == {each.file for each in checkpoint.tensors.values()}
        got = loaded(checkpoint)
        assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_a_part_that_changed_is_refused(tmp_path: Path) -> None:
    found = parts(tmp_path)
    checkpoint = open_checkpoint(found[0])
    found[2].write_bytes(found[2].read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="changed") as caught:
        loaded(checkpoint)
    assert str(found[2]) in str(caught.value)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_missing_parts_are_named(tmp_path: Path, given: int) -> None:
    found = parts(tmp_path)
    missing = [path for number, path in enumerate(found) if number != given]
    for path in missing:
        path.unlink()
    assert problems(found[given]) == tuple(f"{path}: no such file" for path in missing)


def edited(path: Path, key: str, value: int) -> None:
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[reader.fields[key].data[0]][0] = value
    reader.data.flush()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("split.no", 0, "split.no 0: a part of another model"),
        ("split.count", 4, "split.count 4: a part of"),
        ("split.tensors.count", 9, "split.tensors.count 9: a part of another model"),
    ],
)
def test_parts_of_another_model_are_refused(tmp_path: Path, key: str, value: int, words: str) -> None:
    found = parts(tmp_path)
    edited(found[1], key, value)
    for path in found:
        assert any(words in line and str(found[1]) in line for line in problems(path))


def test_tensors_in_two_parts_or_none_are_refused(tmp_path: Path) -> None:
    found, other = parts(tmp_path / "a"), parts(tmp_path / "b")
    found[1].write_bytes(other[0].read_bytes())
    edited(found[1], "split.no", 1)
    said = problems(found[0])
    assert any("in 2 parts; legal: one" in line for line in said)


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    found = parts(tmp_path)
    alone = found[0].rename(tmp_path / "renamed.gguf")
    assert "split.count 3: a part of a model; legal: all parts in one place" in problems(alone)[0]
