"""Instructions of routed experts against torch and against a loop over rows: every variant, type, number of threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import ISAS, THREADS, form
from weft.compute.native.records import Epilogue, WeightKind
from weft.compute.ops.native.builder import Builder
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import PackedSlots
from weft.compute.ops.reference.exact_ops import snap
from weft.compute.ops.reference.routing import route
from weft.compute.ops.slot_tables import SlotTables
from weft.parallel.arch.config import MoEConfig

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
TOLERANCE = {BF16: 1e-6, F32: 1e-6, F64: 1e-14}
ROUTINGS = [
    {"num_experts": 5, "top_k": 2},
    {"num_experts": 1, "top_k": 1},
    {"num_experts": 64, "top_k": 8, "normalize": False, "scale": 2.5},
    {"num_experts": 33, "top_k": 33},
    {"num_experts": 12, "top_k": 3, "groups": 4, "top_groups": 2},
    {"num_experts": 48, "top_k": 6, "groups": 6, "top_groups": 3, "group_best": 2, "score": "sigmoid"},
    {"num_experts": 6, "top_k": 2, "groups": 3, "top_groups": 1, "group_best": 2, "correction_bias": True},
]


def single(variant: str, threads: int, exact: bool = False) -> Builder:
    return run_now(step_cases.pool(variant, threads), exact)


def apart(rows: int, experts: int, dtype: torch.dtype) -> Tensor:
    """Logits of which no two of a row are so near that rounding could exchange them."""
    generator = torch.Generator().manual_seed(rows * 1000 + experts)
    order = torch.stack([torch.randperm(experts, generator=generator) for _ in range(rows)]) if rows else None
    return torch.empty(0, experts, dtype=dtype) if order is None else (order.double() / 8 - experts / 16).to(dtype)


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_route(variant: str, dtype: torch.dtype, routing: dict[str, Any]) -> None:
    moe = MoEConfig(intermediate_size=1, **routing)
    wide = torch.promote_types(dtype, F32)
    correction = torch.linspace(-0.4, 0.4, moe.num_experts, dtype=wide) if moe.correction_bias else None
    for rows in (0, 1, 5, 33):
        logits = apart(rows, moe.num_experts, dtype)
        experts, weights = route(logits.to(wide), correction, moe)
        for threads in THREADS:
            choices = single(variant, threads).route(logits, correction, moe)
            assert torch.equal(choices[:, : moe.top_k].long(), experts)
            found = choices[:, moe.top_k :]
            assert found.dtype == wide
            torch.testing.assert_close(found, weights, atol=TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype])


def test_equal_scores_go_to_the_lowest_expert(variant: str) -> None:
    moe = MoEConfig(num_experts=40, top_k=3, intermediate_size=1)
    logits = torch.zeros(2, 40)
    logits[1, 30:] = 1.0
    assert single(variant, 2).route(logits, None, moe)[:, :3].tolist() == [[0, 1, 2], [30, 31, 32]]


def test_logits_that_are_no_numbers_choose_experts_that_there_are(variant: str) -> None:
    moe = MoEConfig(num_experts=6, top_k=4, intermediate_size=1, groups=3, top_groups=2)
    logits = torch.full((3, 6), float("nan"))
    logits[1, 2], logits[2] = 1.0, float("-inf")
    chosen = single(variant, 2).route(logits, None, moe)[:, :4]
    assert ((chosen >= 0) & (chosen < 6)).all()


def test_weights_of_the_exact_model_are_on_its_grid(variant: str) -> None:
    moe = MoEConfig(num_experts=7, top_k=3, intermediate_size=1, scale=1.5)
    logits = apart(9, 7, F32)
    experts, weights = route(logits.double(), None, moe)
    choices = single(variant, 2, exact=True).route(logits, None, moe)
    assert torch.equal(choices[:, :3].long(), experts) and torch.equal(choices[:, 3:], snap(weights))


def placed_by_hand(tables: SlotTables, experts: Tensor) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """For each choice its slot here or -1, and for each slot its (row, choice), one choice after the other."""
    turns = [0] * len(tables.replicas)
    lo, hi = tables.here
    slots: list[list[int]] = []
    held: list[list[tuple[int, int]]] = [[] for _ in range(hi - lo)]
    for row, chosen in enumerate(experts.tolist()):
        slots.append([])
        for choice, expert in enumerate(chosen):
            slot = int(tables.slot_of[expert, turns[expert] % int(tables.replicas[expert])]) - lo
            turns[expert] += 1
            slots[-1].append(slot if 0 <= slot < hi - lo else -1)
            if 0 <= slot < hi - lo:
                held[slot].append((row, choice))
    return slots, held


@given(data=st.data(), experts=st.integers(1, 9), more=st.integers(0, 6), rows=st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_choices_are_sorted_by_slot(data: st.DataObject, experts: int, more: int, rows: int) -> None:
    k = data.draw(st.integers(1, experts))
    slot_map = [*range(experts), *data.draw(st.lists(st.integers(0, experts - 1), min_size=more, max_size=more))]
    slot_map = data.draw(st.permutations(slot_map))
    lo = data.draw(st.integers(0, len(slot_map) - 1))
    here = (lo, data.draw(st.integers(lo + 1, len(slot_map))))
    chosen = torch.tensor([data.draw(st.permutations(range(experts)))[:k] for _ in range(rows)], dtype=torch.int64)
    chosen = chosen.view(rows, k)
    weights = torch.rand(rows, k)
    tables = SlotTables.of(slot_map, experts, here, CPU)
    tables.tally = torch.ones(experts, dtype=torch.int64)
    placed = single(ISAS[0], 1 + rows % 2).place(torch.cat((chosen.float(), weights), 1), k, here[1] - lo, tables)
    slots, held = placed_by_hand(tables, chosen)
    assert tables.local(tables.slots(chosen)).tolist() == slots
    flat = [each for slot in held for each in slot]
    count = here[1] - lo
    assert placed.ends[:count].tolist() == torch.tensor([len(slot) for slot in held]).cumsum(0).tolist()
    assert placed.order.flatten()[: len(flat)].tolist() == [row for row, _ in flat]
    assert placed.weights.flatten()[: len(flat)].tolist() == [float(weights[at]) for at in flat]
    wanted = torch.full((rows, k), -1)
    for place, at in enumerate(flat):
        wanted[at] = place
    assert torch.equal(placed.places, wanted)
    # the twin has counted them once more
    assert tables.tally.tolist() == [1 + 2 * int((chosen == expert).sum()) for expert in range(experts)]


def test_without_tables_a_choice_is_a_slot() -> None:
    choices = torch.tensor([[2.0, -1.0, 0.5, 0.25], [0.0, 2.0, 0.75, 1.0]])
    placed = single(ISAS[0], 1).place(choices, 2, 3)
    assert placed.places.tolist() == [[1, -1], [0, 2]] and placed.ends[:3].tolist() == [1, 1, 3]
    assert placed.order.flatten()[:3].tolist() == [1, 0, 1] and placed.weights.flatten()[:3].tolist() == [
        0.75,
        0.5,
        1.0,
    ]


def slots_of(variant: str, count: int, columns: int, depth: int, kind: WeightKind | None, gated: bool) -> PackedSlots:
    dtype = F64 if kind == WeightKind.F64 else F32 if kind == WeightKind.F32 else BF16
    weight = torch.randn(count * columns, depth).to(dtype)
    return step_cases.packing(variant).pack_slots(weight, count, form(kind), interleaved=gated)


@pytest.mark.parametrize(
    "kind", [each for each in WeightKind if each != WeightKind.BF16_12BIT], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("counts", [[0, 5, 1, 0, 30], [1], [3, 3, 3], [0, 0]], ids=str)
def test_slots_are_one_product_each(variant: str, counts: list[int], kind: WeightKind) -> None:
    dtype = F64 if kind == WeightKind.F64 else F32 if kind == WeightKind.F32 else BF16
    gated = slots_of(variant, len(counts), 2 * 24, 80, kind, True)
    x, ends = torch.randn(sum(counts), 80).to(dtype), torch.tensor(counts).cumsum(0)
    wanted = torch.empty(sum(counts), 24, dtype=torch.promote_types(dtype, F32))
    for weight, part, to in zip(gated.slots, x.split(counts), wanted.split(counts), strict=True):
        run_now(step_cases.pool(variant, 1)).linear(part, weight, to, None, Epilogue.SILU_MUL_OF)
    for threads in THREADS:
        out = torch.full_like(wanted, -7.0)
        assert torch.equal(single(variant, threads).grouped(x, ends, gated, out, Epilogue.SILU_MUL_OF), wanted)


def test_what_is_written_to_a_slot_is_what_products_read() -> None:
    weights = slots_of(ISAS[0], 3, 40, 33, WeightKind.INT4, False)
    before = [slot.unpacked() for slot in weights.slots]
    for part in weights.held:
        part[0].copy_(part[2].clone())
    assert torch.equal(weights.slots[0].unpacked(), before[2]) and torch.equal(weights.slots[1].unpacked(), before[1])
    assert [len(part) for part in weights.held] == [3, 3]  # data; scales, which offsets share words with


def test_the_exact_model_weighs_rows_before_down(variant: str) -> None:
    weight = torch.randint(-32, 33, (2 * 40, 48)).float() / 64
    made = step_cases.packing(variant).pack_slots(weight, 2, interleaved=True)
    x, weights = torch.randint(-64, 65, (5, 48)).float() / 64, torch.rand(5, dtype=F64)
    ends, out = torch.tensor([2, 5]), torch.empty(5, 20)
    single(variant, 2, exact=True).grouped(x, ends, made, out, Epilogue.SILU_MUL_OF, weights)
    for rows, slot in ((slice(0, 2), 0), (slice(2, 5), 1)):
        gate, up = (x[rows] @ weight.view(2, 40, 48)[slot].T).double().chunk(2, 1)
        assert torch.equal(out[rows], snap(F.silu(gate) * up * weights[rows, None]))


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
@pytest.mark.parametrize("columns", [1, 16, 77])
def test_answers_are_added_in_the_order_of_choices(variant: str, dtype: torch.dtype, columns: int) -> None:
    answers, wide = torch.randn(9, columns).to(dtype), torch.promote_types(dtype, F32)
    places = torch.tensor([[3, -1, 0], [-1, -1, -1], [8, 7, 1]])
    weights = torch.rand(9).double()
    wanted = torch.zeros(3, columns, dtype=wide)
    for row, chosen in enumerate(places.tolist()):
        for place in (each for each in chosen if each >= 0):
            wanted[row] = wanted[row] + answers[place].to(wide) * weights[place].to(wide)
    for threads in THREADS:
        out = single(variant, threads).combine(answers, places, weights, torch.empty(3, columns, dtype=dtype), 3)
        assert torch.equal(out, wanted.to(dtype))


@pytest.mark.parametrize("kind", [WeightKind.F32, WeightKind.BF16, WeightKind.INT8], ids=lambda kind: kind.name)
def test_a_row_has_the_same_bits_in_any_batch_and_place(variant: str, kind: WeightKind) -> None:
    dtype = F32 if kind == WeightKind.F32 else BF16
    gate_up, down = slots_of(variant, 4, 2 * 22, 64, kind, True), slots_of(variant, 4, 64, 22, kind, False)
    x, slots = torch.randn(50, 64).to(dtype), torch.stack([torch.randperm(5)[:3] - 1 for _ in range(50)])
    choices = torch.cat((slots.float(), torch.rand(50, 3)), 1)

    def sums(rows: slice, threads: int) -> Tensor:
        ops = single(variant, threads)
        placed = ops.place(choices[rows], 3, 4)
        answers = ops.answers(x[rows], 64, placed, gate_up, down, dtype)
        found: Tensor = ops.combine(answers, placed.places, placed.weights, torch.empty_like(x[rows]), 3)
        return found

    together = sums(slice(0, 50), 2)
    for row in range(50):
        assert torch.equal(sums(slice(row, row + 1), 1)[0], together[row])
    assert torch.equal(sums(slice(7, 31), 3), together[7:31])
