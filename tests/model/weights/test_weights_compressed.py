"""Bytes of what a rank keeps as it is or in 12 bits are those that it holds, on every layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.checkpoints import make_checkpoint, small_config
from weft.base.settings import EngineConfig
from weft.compute.native.build import ensure_built, find_compiler
from weft.compute.native.records import WeightKind
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.weights import Weight
from weft.model.checkpoint import open_checkpoint
from weft.model.layers import Prepare
from weft.model.weights.loader import load_params
from weft.model.weights.storage import weight_storage
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")

FAR_BESIDE = 64 * 4
"""Bytes of room for numbers that do not suit 12 bits, beside those of its groups, in each matrix."""
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
LAYOUTS: list[dict[str, Any]] = [
    {"attention.tp": 1},
    {"attention.tp": 2},
    {"attention.tp": 2, "embedding.tp": 1},
    {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 1, "embedding.tp": 4, "lm_head.tp": 2},
]


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    ensure_built()


@pytest.mark.parametrize("compressed", [True, False], ids=["12 bits", "16 bits"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("given", LAYOUTS, ids=str)
def test_bytes_are_those_that_are_held(tmp_path: Path, given: dict[str, Any], tied: bool, compressed: bool) -> None:
    """Sizes in whole panels: padding is not priced."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", small_config(tie_word_embeddings=tied, **SIZES)))
    config = parse_config(checkpoint.config)
    storage = replace(weight_storage(EngineConfig(dtype="bfloat16"), None, ()), compressed=compressed)
    shards = Shards(config, resolve(given), storage=storage)
    for rank in range(shards.layout.world):
        ops = make_ops(Numerics(torch.bfloat16, compress_weights=compressed), "cpu")
        prepare = Prepare(ops, shards, rank)
        params = load_params(checkpoint, shards.specs, shards, rank, torch.bfloat16, prepare=prepare).params
        held = {part.data_ptr(): part.nbytes for each in params.values() for part in parts(each) if part.numel()}
        matrices = {id(each) for each in params.values() if isinstance(each, PackedWeight)}
        room = FAR_BESIDE * len(matrices) * compressed
        assert sum(held.values()) - room == sum(shards.bytes(rank, 2).values()), rank


def parts(weight: Weight) -> tuple[Tensor, ...]:
    if isinstance(weight, Tensor):
        return (weight,)
    assert isinstance(weight, PackedWeight) and weight.kind in (WeightKind.BF16_12BIT, WeightKind.BF16)
    return weight.data, weight.scale, weight.offset
