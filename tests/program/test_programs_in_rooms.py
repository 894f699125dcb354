"""All that other ranks may help with lies where they find it: what an open instruction reads, writes and points to."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.program import test_last_layer as last_layer
from tests.program.test_last_layer import logits_of
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.layout.resolve import resolve
from weft.native.records import InstructionRecord, WeightRecord
from weft.native.step_library import Program
from weft.ops.base import Numerics
from weft.ops.operations.dense import WEIGHT
from weft.ops.operations.table import OPS, Op
from weft.worker.runner import RankCapacity

LIMITS = RankCapacity(num_blocks=8, block_size=16, max_num_seqs=4, max_model_len=64)
BF16 = torch.bfloat16
NUMERICS = {
    "fp32": Numerics(torch.float32),
    "12 bits": Numerics(BF16, compress_weights=True),
    "16 bits": Numerics(BF16, compress_weights=False),
    "int8": Numerics(BF16, quantization="int8"),
    "int4": Numerics(BF16, quantization="int4"),
    "int4, rows of 8 bits": Numerics(BF16, quantization="int4", int8_activations=True),
}


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[InstructionRecord]]]:
    """The instructions of each program that is made."""
    need("step", "comm")
    found: list[list[InstructionRecord]] = []
    plain = Program.__init__

    def noted(program: Program, pool: Any, code: Sequence[InstructionRecord], *rest: Any) -> None:
        found.append(list(code))
        plain(program, pool, code, *rest)

    monkeypatch.setattr(Program, "__init__", noted)
    yield found


@pytest.mark.parametrize("numerics", NUMERICS.values(), ids=NUMERICS)
@pytest.mark.parametrize("variant", ["biased", "tied", "experts", "latent"])
@pytest.mark.parametrize("world", [1, 2])
def test_every_address_is_common(
    world: int, variant: str, numerics: Numerics, tmp_path: Path, assembled: list[list[InstructionRecord]]
) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, variant))
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve({"attention.tp": world}, world, num_experts=config.num_experts))
    with closing(ProgramExecutor(checkpoint, shards, numerics, LIMITS, helps=True)) as made:
        for code, shelf in zip(assembled, made.shelves, strict=True):
            split = [each for each in code if OPS[each.op].units]
            assert {Op.LINEAR, Op.ATTENTION} <= {each.op for each in split}
            for each in split:
                assert [at for at in addresses(each) if not shelf.holds(at)] == [], OPS[each.op].name


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=["fp32", "bf16"])
def test_units_that_another_rank_takes_have_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    """Steps are repeated until a waiting rank has taken some; the suite's own limit ends it."""
    need("step", "comm")
    checkpoint = open_checkpoint(write_random(tmp_path, "tied"))
    shards = Shards(parse_config(checkpoint.config), resolve({"attention.tp": 2}, 2))
    with closing(ProgramExecutor(checkpoint, shards, Numerics(dtype), last_layer.LIMITS)) as alone:
        wanted = logits_of(alone, scored=True)
    with closing(ProgramExecutor(checkpoint, shards, Numerics(dtype), last_layer.LIMITS, helps=True)) as made:
        while not made.helped_ns():
            assert all(map(torch.equal, logits_of(made, scored=True), wanted))


def addresses(record: InstructionRecord) -> list[int]:
    """All that an instruction points to, and its weights point to."""
    named = [operand.base for operand in (record.out, *record.inputs)]
    named += record.p
    if record.op == Op.LINEAR:
        named += of_weight(record.p[WEIGHT])
    if record.op in (Op.GROUPED, Op.PER_HEAD):
        slots = (ctypes.c_void_p * record.n[0]).from_address(record.p[0])
        named += [part for at in slots if at for part in (at, *of_weight(at))]
    return [int(at) for at in named if at]


def of_weight(address: int) -> list[int | None]:
    weight = WeightRecord.from_address(address)
    return [weight.data, weight.scale, weight.offset, weight.table, weight.lut]
