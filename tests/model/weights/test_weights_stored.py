"""What a start says of quantized files, against what is loaded of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import make_checkpoint, make_gguf, small_config
from weft.base.plural import size
from weft.base.settings import EngineConfig
from weft.model.checkpoint import open_checkpoint
from weft.model.weights.loader import load_params
from weft.model.weights.storage import weight_storage
from weft.model.weights.stored import refused_formats, stored_line
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

SIZES: Any = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def line(path: Path, quantization: str = "none") -> str | None:
    checkpoint = open_checkpoint(path)
    config, engine = parse_config(checkpoint.config), EngineConfig(dtype="bfloat16", quantization=quantization)
    specs = Shards(config, resolve({})).specs
    return stored_line(checkpoint, config, engine, weight_storage(engine, checkpoint, specs))


@pytest.mark.parametrize("qtype", ["Q5_K", "Q2_K", "IQ3_S", "Q8_0", "MXFP4"])
def test_memory_is_that_of_what_is_loaded(tmp_path: Path, qtype: str) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(**SIZES), qtype=qtype)
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve({}))
    loaded = load_params(checkpoint, shards.specs, shards, 0, torch.bfloat16).params
    held = sum(each.nbytes for each in loaded.values() if isinstance(each, torch.Tensor))
    said = line(path)
    assert said is not None and f"{qtype} unpacked to bfloat16: " in said
    assert (
        f"{size(checkpoint.nbytes)} in the file, {size(held)} in memory, {size(held - checkpoint.nbytes)} more" in said
    )
    assert "--quantization int4 would take" in said


def test_what_is_kept_and_what_is_rounded_again(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", small_config(**SIZES), qtype="Q8_0")
    assert "Q8_0 kept as in the file; Q8_0 unpacked to bfloat16:" in str(line(path, "gguf"))  # the embedding
    tied = make_gguf(tmp_path / "tied.gguf", small_config(**SIZES, tie_word_embeddings=True), qtype="Q8_0")
    assert "weights: Q8_0 kept as in the file: " in str(line(tied, "gguf"))
    assert "Q8_0 rounded again to int8" in str(line(path, "int8")) and "int4" not in str(line(path, "int8"))


def test_plain_files_say_nothing(tmp_path: Path) -> None:
    assert line(make_checkpoint(tmp_path / "m", small_config())) is None
    assert line(make_gguf(tmp_path / "m.gguf", small_config(), qtype="F16")) is None


def test_types_that_no_loader_takes_are_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(**SIZES), qtype="Q1_0"))
    assert [line.split(";")[0] for line in refused_formats(checkpoint)] == [
        f"{checkpoint.path}: 16 tensors in Q1_0, output.weight the first"
    ]
    assert list(refused_formats(open_checkpoint(make_gguf(tmp_path / "n.gguf", small_config())))) == []
