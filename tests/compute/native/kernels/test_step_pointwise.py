"""Rows one by one, against the torch twins: every variant, types, odd sizes, strides, threads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import ISAS, THREADS
from weft.base.errors import WeftError
from weft.compute.native.records import InstructionRecord, StepRecord
from weft.compute.ops import Numerics
from weft.compute.ops.operations.dense import BIAS, EPS, HELD, LO, NORM_WEIGHT
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.exact_ops import ExactOps, snap
from weft.compute.ops.reference.torch_ops import TorchOps

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
PAIRS = [(F32, F32), (F32, BF16), (BF16, BF16), (BF16, F32), (F64, F64)]
TOLERANCE = {BF16: 1e-2, F32: 2e-6, F64: 1e-14}
SMALL = 1e-5
SHAPES = [(1, 1), (3, 7), (5, 64), (33, 577), (200, 24), (0, 16)]


def wide(rows: int, columns: int, dtype: torch.dtype, seed: int = 0, extra: int = 3) -> Tensor:
    """Rows that are a part of wider ones."""
    x = torch.randn(rows, columns + extra, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x.to(dtype)[:, :columns]


def blank(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.full((rows, columns + 5), 77.0, dtype=dtype)[:, :columns]


def close(out: Tensor, wanted: Tensor) -> None:
    assert out.dtype == wanted.dtype and out.shape == wanted.shape
    if out.numel():
        scale = 1 + wanted.double().abs()
        assert ((out.double() - wanted.double()).abs() / scale).max() < TOLERANCE[out.dtype]


@pytest.mark.parametrize("given, made", PAIRS)
@pytest.mark.parametrize("rows, columns", SHAPES)
def test_norm(variant: str, given: torch.dtype, made: torch.dtype, rows: int, columns: int) -> None:
    parameters = torch.promote_types(made, F32)
    x, weight = wide(rows, columns, given), wide(1, columns, parameters, seed=1)[0].contiguous()
    wanted = TorchOps(Numerics(made), CPU).rms_norm(x, weight, SMALL).to(made)
    seen = []
    for threads in THREADS:
        out = blank(rows, columns, made)
        step_cases.run(variant, threads, Op.NORM, out, [x], f={EPS: SMALL}, p={NORM_WEIGHT: weight})
        close(out, wanted)
        assert (out.as_strided((rows, 5), (columns + 5, 1), columns)[:-1] == 77).all()  # nothing after a row is touched
        seen.append(out)
    assert all(torch.equal(out, seen[0]) for out in seen)
    for row in range(rows):
        alone = step_cases.run(
            variant, 1, Op.NORM, blank(1, columns, made), [x[row : row + 1]], f={EPS: SMALL}, p={NORM_WEIGHT: weight}
        )
        assert torch.equal(alone[0], seen[0][row])


@pytest.mark.parametrize("given, made", PAIRS)
@pytest.mark.parametrize("rows, columns", SHAPES)
def test_silu_mul(variant: str, given: torch.dtype, made: torch.dtype, rows: int, columns: int) -> None:
    x = wide(rows, 2 * columns, given) * 8
    wanted = TorchOps(Numerics(made), CPU).silu_mul(x.to(torch.promote_types(given, F32))).to(made)
    for threads in THREADS:
        out = step_cases.run(variant, threads, Op.SILU_MUL, blank(rows, columns, made), [x])
        close(out, wanted)
    for row in range(rows):
        alone = step_cases.run(variant, 1, Op.SILU_MUL, blank(1, columns, made), [x[row : row + 1]])
        assert torch.equal(alone[0], out[row])


@pytest.mark.parametrize("rows, columns", SHAPES)
def test_exact_mode_equals_the_exact_model(variant: str, rows: int, columns: int) -> None:
    ops = ExactOps(Numerics(F32, exact=True), CPU)
    x, gate_up = snap(wide(rows, columns, F64)), snap(wide(rows, 2 * columns, F64) * 3)
    weight = snap(wide(1, columns, F64, seed=1))[0].contiguous()
    for threads in THREADS:
        out = blank(rows, columns, F32)
        step_cases.run(
            variant, threads, Op.NORM, out, [x], f={EPS: SMALL}, p={NORM_WEIGHT: weight.double()}, exact=True
        )
        assert torch.equal(out, ops.rms_norm(x, weight, SMALL))
        step_cases.run(variant, threads, Op.SILU_MUL, out, [gate_up], exact=True)
        assert torch.equal(out, ops.silu_mul(gate_up))


@pytest.mark.parametrize("kept, added", [(F32, F32), (F32, BF16), (F64, F64), (F64, F32), (BF16, BF16), (BF16, F32)])
@pytest.mark.parametrize("rows, columns", SHAPES)
def test_sums_and_a_norm_that_adds_first(
    variant: str, kept: torch.dtype, added: torch.dtype, rows: int, columns: int
) -> None:
    parameters = torch.promote_types(kept, F32)
    x, row = wide(rows, columns, added, seed=2), wide(1, columns, parameters, seed=3)[0].contiguous()
    norm: dict[str, Any] = {"f": {EPS: SMALL}, "p": {NORM_WEIGHT: row}}
    for threads in THREADS:
        summed, both, biased = (wide(rows, columns, kept, extra=9) for _ in range(3))
        sums, biases = ((summed.to(parameters) + each).to(kept) for each in (x, row))
        assert torch.equal(step_cases.run(variant, threads, Op.ADD, summed, [x]), sums)
        assert torch.equal(step_cases.run(variant, threads, Op.ADD_BIAS, biased, [None], p={BIAS: row}), biases)
        wanted = step_cases.run(variant, threads, Op.NORM, blank(rows, columns, kept), [sums], **norm)
        found = step_cases.run(variant, threads, Op.NORM, blank(rows, columns, kept), [both, x], **norm)
        assert torch.equal(found, wanted) and torch.equal(both, sums)


@pytest.mark.parametrize("dtype", [F32, BF16, F64])
def test_select(variant: str, dtype: torch.dtype) -> None:
    """In place, of one operand or two of different widths; nothing beside the rows that are left is touched."""
    for numbers in ([0, 3, 4, 8], [8], list(range(9)), []):
        rows = torch.tensor(numbers, dtype=torch.int64)
        step = StepRecord(sampled_rows=rows.data_ptr())
        for threads, two in itertools.product(THREADS, (False, True)):
            x, beside = wide(9, 37, dtype, extra=3), wide(9, 70, BF16)
            wanted, other = x[rows], beside[rows]
            inputs = [x, beside] if two else [x]
            step_cases.run(variant, threads, Op.SELECT, x[: len(rows)], inputs, step)
            assert torch.equal(x[: len(rows)], wanted) and torch.equal(x[len(rows) :], wide(9, 37, dtype)[len(rows) :])
            assert torch.equal(beside[: len(rows)], other if two else wide(9, 70, BF16)[: len(rows)])


@pytest.mark.parametrize("stored, made", [(F32, F32), (BF16, F32), (BF16, BF16), (F64, F64), (F32, F64), (F32, BF16)])
def test_embedding_rows(variant: str, stored: torch.dtype, made: torch.dtype) -> None:
    table, ids = wide(11, 37, stored), torch.tensor([[20], [29], [19], [30], [31], [25], [20], [-1], [1 << 40]])
    wanted = TorchOps(Numerics(stored), CPU).embedding(ids[:, 0], table, 20).to(made)
    given_by_step = StepRecord(ids=ids.data_ptr())
    for threads in THREADS:
        for given, step in ((ids, None), (None, given_by_step)):
            out = step_cases.run(
                variant, threads, Op.EMBED, blank(9, 37, made), [given, table], step, n={LO: 20, HELD: 11}
            )
            assert torch.equal(out, wanted)


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(WeftError, match="no kernel for instruction 99"):
        step_cases.pool(ISAS[0], 1).run_one(InstructionRecord(op=99), StepRecord())
