"""Memory of targets: filled again where a matrix was packed out of it, and only by what is packed again."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.weights import Use, plain
from weft.model.checkpoint import open_checkpoint
from weft.model.layers import Prepare
from weft.model.weights.filling import Filling
from weft.model.weights.loader import load_params
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve

CPU = torch.device("cpu")


def shards_of(path: Path) -> Shards:
    return Shards(parse_config(open_checkpoint(path).config), resolve({}))


def test_packed_matrices_have_the_numbers_of_plain_ones(tmp_path: Path) -> None:
    need("step")
    path = write_random(tmp_path, "biased")
    checkpoint, shards = open_checkpoint(path), shards_of(path)
    ops = make_ops(Numerics(torch.bfloat16), CPU)
    packed = load_params(checkpoint, shards.specs, shards, 0, torch.bfloat16, prepare=Prepare(ops, shards, 0)).params
    wanted = load_params(checkpoint, shards.specs, shards, 0, torch.bfloat16).params
    assert sum(isinstance(weight, PackedWeight) for weight in packed.values()) > 4
    for name, weight in wanted.items():
        assert torch.equal(plain(packed[name]), plain(weight)), name


def test_memory_is_filled_again_by_matrices_alone(tmp_path: Path) -> None:
    need("step")
    shards, ops = shards_of(write_random(tmp_path, "biased")), make_ops(Numerics(torch.bfloat16), CPU)
    specs = {spec.name: spec for spec in shards.specs_of(0)}
    filling = Filling(list(specs.values()), shards, 0, shards.target_shapes(0), torch.bfloat16, CPU, {})
    first, second, norm = (
        specs[f"model.layers.{name}.weight"] for name in ("0.mlp.down_proj", "1.self_attn.o_proj", "0.input_layernorm")
    )
    whole = filling.place(first).fill_(1)
    filling.finished(first)
    filling.take_back(first.target, whole, whole)
    assert filling.place(second).untyped_storage().data_ptr() != whole.data_ptr()  # the first was not packed
    filling.take_back(first.target, whole, ops.prepare(whole, Use.LINEAR))
    assert filling.place(norm).untyped_storage().nbytes() == filling.place(norm).nbytes
    third = specs["model.layers.1.mlp.down_proj.weight"]
    assert filling.place(third).data_ptr() == whole.data_ptr()
