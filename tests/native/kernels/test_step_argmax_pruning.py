"""The largest logit of each row by bounds is that of all logits, bit by bit, and no logit is above its bound."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.native import step_cases
from tests.native.step_cases import ISAS, THREADS, VARIANTS, form
from tests.support.native_libraries import tried
from weft.native import build, isa
from weft.native.records import InstructionRecord, StepRecord, WeightKind
from weft.ops.native.packed import QUANTIZED, PackedWeight, Packing, operand
from weft.ops.operations.dense import WEIGHT
from weft.ops.operations.table import Op
from weft.program import argmax_pruning
from weft.program.argmax_pruning import ArgmaxPruner

ABLE = [variant for variant in ISAS if isa.suits_argmax_pruning(variant)]
pytestmark = [
    pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine"),
    pytest.mark.skipif(not ABLE, reason="this CPU has no byte dot products (VNNI, or AVX2) that weft uses"),
]
SHAPES = [(1, 1), (5, 7), (33, 65), (70, 100), (200, 130), (1000, 576), (1100, 576), (515, 1100)]
ROWS = (1, 2, 3, 4, 5, 8, 9, 17, 64)
FEW = (1, 2)
KINDS = [
    (kind, rounds)
    for kind in (WeightKind.BF16, WeightKind.BF16_12BIT, *QUANTIZED)
    for rounds in (False, True)[: 1 + (kind in QUANTIZED)]
]
"""And whether rows that they are multiplied with are rounded to 8 bits."""


class Head:
    """A matrix [columns, depth] with its pruner, on `threads` threads."""

    def __init__(
        self,
        weight: Tensor,
        kind: WeightKind = WeightKind.BF16,
        threads: int = 2,
        variant: str = "",
        int8_activations: bool = False,
        weighs: Tensor | None = None,
    ) -> None:
        self.pool = step_cases.pool(variant or ABLE[0], threads)
        self.weight: PackedWeight = Packing(self.pool, int8_activations).pack(weight, form(kind))
        made = argmax_pruning.made(self.weight, 0, max(ROWS), self.pool, weighs)
        assert made is not None
        self.pruner: ArgmaxPruner = made

    def logits(self, x: Tensor) -> Tensor:
        out = torch.empty(len(x), self.weight.shape[0])
        self.pool.run_one(self._record(x, out), self._step(x))
        return out

    def largest(self, x: Tensor) -> tuple[list[int], Tensor] | None:
        """Of each row the id, and the logits that were computed, NaN where none was; None where it gave up."""
        out, values = torch.full((len(x), self.weight.shape[0]), torch.nan), np.full((len(x), 2), -1.0)
        record, library = self._record(x, out), self.pool.lib
        arguments = (self.pool.handle, self.pruner.address, ctypes.byref(record), len(x), values.ctypes.data)
        if not library.weft_argmax_pruner_largest(*arguments):
            return None
        assert values[:, 1].tolist() == [1.0] * len(x)
        return values[:, 0].astype(int).tolist(), out

    def tops(self, rows: int) -> Tensor:
        """[rows, pairs]: the highest bound of each pair's columns."""
        return self.pruner.memory[-2].view(max(ROWS), -1)[:rows].clone()

    def _record(self, x: Tensor, out: Tensor) -> InstructionRecord:
        record = InstructionRecord(op=Op.LINEAR, rows=0, out=operand(out))
        record.inputs[0], record.p[WEIGHT] = operand(x), self.weight.address
        return record

    @staticmethod
    def _step(x: Tensor) -> StepRecord:
        step = StepRecord()
        step.rows[0] = len(x)
        return step


def check(head: Head, x: Tensor) -> bool:
    """Whether it found them."""
    logits, found = head.logits(x), head.largest(x)
    if found is None:
        return False
    ids, computed = found
    assert ids == logits.numpy().argmax(1).tolist()  # of equal ones the first
    there = ~computed.isnan()
    assert torch.equal(computed[there].view(torch.int32), logits[there].view(torch.int32))
    pairs = -(-logits.shape[1] // 32)
    of_pairs = torch.full((len(x), 32 * pairs), -torch.inf)
    of_pairs[:, : logits.shape[1]] = logits
    assert (head.tops(len(x)) >= of_pairs.view(len(x), pairs, 32).amax(2)).all()
    return True


def pointing(weight: Tensor, rows: int, noise: float = 0.3) -> Tensor:
    """Rows each near one of the matrix's, some of their numbers far larger than others."""
    x = weight[torch.randint(0, len(weight), (rows,))].float()
    x = x + noise * torch.randn_like(x) * x.std(1, keepdim=True, correction=0)
    x[:, :: max(1, x.shape[1] // 16)] *= 10
    return x.bfloat16()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(("kind", "int8_activations"), KINDS, ids=str)
@pytest.mark.parametrize("variant", tried(ABLE))
def test_of_rows_that_point_somewhere_few_logits_are_computed(
    variant: str, kind: WeightKind, int8_activations: bool, threads: int
) -> None:
    for shape in SHAPES:
        weight = (torch.randn(shape) + 0.3 * torch.randn(shape[1])).bfloat16()
        x = pointing(weight, max(ROWS))
        weighs = x.float().square().mean(0).sqrt()
        head = Head(weight, kind, threads, variant, int8_activations, weighs)
        for rows in FEW if int8_activations else ROWS:
            assert check(head, x[:rows]), (shape, rows)
            before = head.pruner.record.looked
            assert check(head, pointing(weight, rows, noise=0.0)), (shape, rows)
            if shape[1] == 576:
                assert head.pruner.record.looked - before <= 6 * rows


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_of_codes_the_logits_of_more_than_a_few_rounded_rows_are_computed(kind: WeightKind) -> None:
    weight = torch.randn(300, 70).bfloat16()
    head, x = Head(weight, kind, int8_activations=True), pointing(weight, 5)
    assert head.pruner.few == 2 and check(head, x[:2]) and head.largest(x[:3]) is None
    assert head.pruner.record.left == 0


NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 127.0, 1e-38, -1e-38, 1e-20, 3e-5]), st.floats(-1e4, 1e4, width=16)
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_numbers(data: st.DataObject) -> None:
    columns, depth, rows = (
        data.draw(st.integers(1, most), label) for most, label in ((70, "columns"), (140, "depth"), (9, "rows"))
    )
    drawn = st.lists(NUMBERS, min_size=1, max_size=40)
    of_weight, of_rows = (torch.tensor(data.draw(drawn)) for _ in range(2))
    power = 10.0 ** torch.randint(-3, 4, (depth,))
    weight = of_weight[torch.randint(0, len(of_weight), (columns, depth))] * power
    x = of_rows[torch.randint(0, len(of_rows), (rows, depth))] * power[torch.randperm(depth)]
    kind, int8_activations = data.draw(st.sampled_from(KINDS))
    most = 60000.0 if kind in QUANTIZED else torch.inf  # scales of groups have 16 bits
    check(Head(weight.clamp(-most, most).bfloat16(), kind, int8_activations=int8_activations), x.bfloat16())


@pytest.mark.parametrize("threads", THREADS)
def test_of_equal_logits_the_first_wins(threads: int) -> None:
    weight = torch.randn(400, 96).bfloat16()
    weight[[390, 45, 213, 77]] = weight[301].clone()
    x = weight[[301, 301, 5]] * 2
    assert check(Head(weight, threads=threads), x)
    ids, _ = Head(weight, threads=threads).largest(x)  # type: ignore[misc]
    assert ids == [45, 45, 5]


def test_where_all_logits_could_be_the_largest_it_gives_up_and_rests_longer_each_time() -> None:
    head, x = Head(torch.ones(4000, 64).bfloat16()), torch.ones(2, 64).bfloat16()
    for pause in (1, 2, 4, 8):
        assert head.largest(x) is None and head.pruner.record.pause == head.pruner.record.left == pause
        looked = head.pruner.record.looked
        assert all(head.largest(x) is None for _ in range(pause)) and head.pruner.record.looked == looked
    for _ in range(1 << 12):
        head.largest(x)
    assert head.pruner.record.pause == 1024


def test_one_success_ends_its_rests() -> None:
    weight = torch.randn(4000, 64).bfloat16()
    head = Head(weight)
    head.pruner.record.pause = 64
    assert check(head, pointing(weight, 2)) and head.pruner.record.pause == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_it_gives_up_on_rows_that_are_not_finite_or_sums_that_might_not_be(bad: float) -> None:
    weight = torch.randn(300, 70).bfloat16()
    x = pointing(weight, 5)
    x[3, 69] = bad
    assert Head(weight).largest(x) is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_matrix_with_a_number_that_is_not_finite_has_no_screen(bad: float) -> None:
    weight = torch.randn(70, 70).bfloat16()
    weight[69, 69] = bad
    packed = step_cases.packing(ABLE[0]).pack(weight, form(WeightKind.BF16))
    assert argmax_pruning.made(packed, 0, 4, step_cases.pool(ABLE[0], 1)) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_says_whether_it_can(variant: str) -> None:
    assert bool(step_cases.lib(variant).weft_suits_argmax_pruning()) == (variant in ABLE)
