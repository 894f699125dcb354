"""Sampling in C++: the ids of the torch twin and of plain Python, for every variant, alone and among any rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import ISAS
from tests.compute.sampling.sampling_reference import TooCloseToCall, chosen
from weft.base.step.plan import NewRequest, Sampled, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.sampling.counter_hash import uniform
from weft.compute.sampling.native_sampling import SamplingKernel, SlotTable
from weft.compute.sampling.sampled_rows import sampled_rows
from weft.compute.sampling.sampler import Sampler

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
NO_STREAMS = np.zeros((3, 0), np.int64)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from((0.0, 1e-6, 0.3, 0.8, 1.0, 1.7, 30.0)),
    top_k=st.sampled_from((0, -1, 1, 2, 7, 40, 300, 10_000)),
    top_p=st.sampled_from((1.0, 0.999, 0.95, 0.6, 0.1, 1e-9)),
    min_p=st.sampled_from((0.0, 1e-4, 0.05, 0.5, 1.0)),
)


def kernel(variant: str, threads: int = 0) -> SamplingKernel:
    pool = step_cases.pool(variant, threads) if threads else None
    return SamplingKernel(step_cases.lib(variant), pool)


def sampler_of(kernel: SamplingKernel | None, params: Sequence[SamplingParams], vocab: int, seed: int = 0) -> Sampler:
    sampler = Sampler(len(params), vocab, CPU, (3,), kernel)
    for slot, one in enumerate(params):
        sampler.admit(NewRequest(slot, [1, 2], [], one, seed + slot))
    return sampler


def run_of(slot: int, output_pos: int = 0, targets: Sequence[int] = ()) -> ScheduledRequest:
    return ScheduledRequest(slot, 0, 1, [], [1], not targets, output_pos, list(targets))


def step(sampler: Sampler, logits: Tensor, runs: Sequence[ScheduledRequest]) -> list[Sampled]:
    rows = sampled_rows(NO_STREAMS, runs)
    return sampler.remember(sampler.sample(logits, rows, sampler.width(rows)), rows).runs


def make_logits(rows: int, vocab: int, seed: int, kind: str) -> Tensor:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    if kind == "ties":
        return logits.round()
    if kind == "flat":
        return logits * 1e-3
    return logits * 8 if kind == "peaked" else logits


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ids_are_those_of_plain_python_and_of_the_twin(variant: str, data: st.DataObject) -> None:
    vocab = data.draw(st.sampled_from((4, 37, 255, 256, 257, 900)), label="vocabulary")
    params = data.draw(st.lists(PARAMS, min_size=1, max_size=5), label="params")
    seed = data.draw(st.integers(-(2**63), 2**63 - 1), label="seed")
    kind = data.draw(st.sampled_from(("plain", "ties", "flat", "peaked")), label="kind")
    logits = make_logits(len(params), vocab, seed % 1000, kind)
    position = data.draw(st.integers(0, 5000), label="position")
    runs = [run_of(slot, position) for slot in range(len(params))]
    values = logits.tolist()
    wanted = []
    for slot, one in enumerate(params):
        try:
            wanted.append(chosen(values[slot], one, uniform(seed + slot, position)))
        except TooCloseToCall:
            assume(False)
    threads = data.draw(st.integers(0, 3), label="threads")
    found = [r.token_id for r in step(sampler_of(kernel(variant, threads), params, vocab, seed), logits, runs)]
    assert found == wanted
    assert [r.token_id for r in step(sampler_of(None, params, vocab, seed), logits, runs)] == wanted


def test_numbers_are_those_of_the_counter_hash(variant: str) -> None:
    """Flat logits over 2^16 ids: the id is the number's first 16 bits."""
    vocab = 1 << 16
    logits, values = torch.zeros(1, vocab), torch.zeros(1, 2, dtype=torch.float64)
    for seed, position in [(0, 0), (1, 0), (-1, 3), (2**63 - 1, 9), (-(2**63), 123_456_789), (77, 2**40)]:
        table = SlotTable(3, vocab)
        table.set(2, 1.0, 0, 1.0, 0.0, seed)
        kernel(variant)(logits, table, np.array([2]), np.array([position]), values)
        assert values.tolist() == [[int(uniform(seed, position) * vocab), 1]]


@pytest.mark.parametrize(
    "params",
    [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 8, "top_p": 0.4}, {"min_p": 0.2}, {"temperature": 0.5}, {"top_p": 0.97}],
    ids=str,
)
def test_frequencies_are_the_probabilities(variant: str, params: dict[str, Any]) -> None:
    vocab, draws = 300, 20_000
    logits = make_logits(1, vocab, 4, "plain")
    table = SlotTable(1, vocab)
    one = SamplingParams(**params)
    table.set(0, one.temperature, one.top_k, one.top_p, one.min_p, 11)
    values = torch.zeros(draws, 2, dtype=torch.float64)
    rows = logits.expand(draws, vocab)
    kernel(variant, 2)(rows, table, np.zeros(draws, np.int64), np.arange(draws), values)
    x = logits[0].double() / one.temperature
    mass = (x - x.max()).exp()
    mass[mass < one.min_p] = 0
    order = mass.argsort(descending=True, stable=True)
    kept = torch.zeros(vocab, dtype=torch.bool)
    before = mass[order].cumsum(0) - mass[order]
    limit = one.top_k or vocab
    kept[order[:limit][before[:limit] < one.top_p * mass[order[:limit]].sum()]] = True
    expected = torch.where(kept, mass, 0) / mass[kept].sum() * draws
    counts = torch.bincount(values[:, 0].long(), minlength=vocab)
    assert counts[~kept].sum() == 0
    assert ((counts - expected).abs() < 6 * expected.sqrt() + 3).all()


def test_a_temperature_that_is_0_in_fp32_is_greedy(variant: str) -> None:
    logits, values = make_logits(1, 300, 5, "plain"), torch.zeros(1, 2, dtype=torch.float64)
    for top_k, top_p in ((0, 1.0), (5, 1.0), (0, 0.9)):
        table = SlotTable(1, 300)
        table.set(0, 1e-50, top_k, top_p, 0.0, 11)
        kernel(variant)(logits, table, np.zeros(1, np.int64), np.zeros(1, np.int64), values)
        assert values.tolist() == [[int(logits.argmax()), 1]]


def test_a_row_is_the_same_among_any_rows(variant: str) -> None:
    params = [SamplingParams(temperature=0.9, top_p=0.9), SamplingParams(temperature=0.0), SamplingParams(top_k=50)] * 5
    logits = make_logits(15, 777, 1, "plain")
    runs = [run_of(slot, slot) for slot in range(15)]
    together = step(sampler_of(kernel(variant, 3), params, 777), logits, runs)
    for slot in range(15):
        alone = step(sampler_of(kernel(variant), params, 777), logits[slot : slot + 1], [runs[slot]])
        assert alone == [together[slot]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 255, 256, 776])
def test_a_row_that_is_not_finite_is_an_error_of_its_own(variant: str, bad: float, place: int) -> None:
    params = [SamplingParams(temperature=0.0), SamplingParams(top_p=0.9), SamplingParams(temperature=1.0)]
    for wrong in range(3):
        logits = make_logits(3, 777, 1, "plain")
        logits[wrong, place] = bad
        found = step(sampler_of(kernel(variant), params, 777), logits, [run_of(slot) for slot in range(3)])
        assert [one.error is not None for one in found] == [slot == wrong for slot in range(3)]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_that_ask_for_more_keep_the_twin_and_others_do_not_notice(variant: str, data: st.DataObject) -> None:
    vocab = 200
    changes: list[dict[str, Any]] = [
        {}, {"logit_bias": ((5, 3.0),)}, {"frequency_penalty": 0.5}, {"min_tokens": 4}, {"logprobs": 2},
        {"repetition_penalty": 1.2, "logprobs": 0}, {"stop_token_ids": (9,), "min_tokens": 2}, {"prompt_logprobs": 1},
    ]  # fmt: skip
    chosen_changes = data.draw(st.lists(st.sampled_from(changes), min_size=1, max_size=6))
    params = [SamplingParams(temperature=0.8, top_k=20, **change) for change in chosen_changes]
    logits = make_logits(len(params), vocab, data.draw(st.integers(0, 99)), "plain")
    with_kernel, twin = sampler_of(kernel(variant), params, vocab), sampler_of(None, params, vocab)
    for position in range(6):
        runs = [
            run_of(slot, position, [7] if one.prompt_logprobs is not None and position == 0 else ())
            for slot, one in enumerate(params)
        ]
        assert step(with_kernel, logits, runs) == step(twin, logits, runs)


def test_strided_rows_and_other_types_of_logits() -> None:
    params = [SamplingParams(temperature=0.7, top_p=0.8)] * 3
    logits = make_logits(3, 400, 2, "plain")
    runs = [run_of(slot) for slot in range(3)]
    wanted = step(sampler_of(None, params, 400), logits, runs)
    ours = kernel(ISAS[0])
    wide = torch.zeros(3, 500)
    wide[:, :400] = logits
    assert step(sampler_of(ours, params, 400), wide[:, :400], runs) == wanted
    assert step(sampler_of(ours, params, 400), logits.t().contiguous().t(), runs) == wanted
    assert step(sampler_of(ours, params, 400), logits.double(), runs) == step(
        sampler_of(None, params, 400), logits.double(), runs
    )
    with pytest.raises(TypeError, match="fp32 rows"):
        ours(logits.double(), SlotTable(3, 400), np.arange(3), np.arange(3), torch.zeros(3, 2, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_masked_rows_choose_among_allowed_ids(variant: str, data: st.DataObject) -> None:
    """As plain Python where no other id is allowed; rows without a mask as ever."""
    vocab = data.draw(st.sampled_from((4, 37, 64, 257, 900)), label="vocabulary")
    params = data.draw(st.lists(PARAMS, min_size=1, max_size=4), label="params")
    logits = make_logits(len(params), vocab, data.draw(st.integers(0, 999)), "plain")
    allowed = data.draw(
        st.lists(
            st.none() | st.sets(st.integers(0, vocab - 1), min_size=1, max_size=40),
            min_size=len(params),
            max_size=len(params),
        ),
        label="allowed",
    )
    wanted, masks, table = [], {}, SlotTable(len(params), vocab)
    for row, (one, ids) in enumerate(zip(params, allowed, strict=True)):
        table.set(row, one.temperature if one.temperature > 1e-5 else 0.0, one.top_k, one.top_p, one.min_p, 5 + row)
        x = logits[row].tolist()
        if ids is not None:
            masks[row], x = mask_of(ids, vocab), [value if id in ids else -np.inf for id, value in enumerate(x)]
        try:
            wanted.append(chosen(x, one, uniform(5 + row, 9)))
        except TooCloseToCall:
            assume(False)
    values = torch.zeros(len(params), 2, dtype=torch.float64)
    rows, threads = np.arange(len(params)), data.draw(st.integers(0, 2), label="threads")
    before = logits.clone()
    kernel(variant, threads)(logits, table, rows, np.full(len(params), 9), values, masks)
    assert values.tolist() == [[float(id), 1.0] for id in wanted]
    assert torch.equal(logits, before)


def test_no_temperature_is_so_high_that_a_forbidden_id_is_drawn(variant: str) -> None:
    logits, table = torch.randn(1, 300), SlotTable(1, 300)
    table.set(0, 3e38, 0, 1.0, 0.0, 1)
    values, masks = torch.zeros(1, 2, dtype=torch.float64), {0: mask_of({7, 250}, 300)}
    found = set()
    for position in range(60):
        kernel(variant)(logits, table, np.zeros(1, np.int64), np.array([position]), values, masks)
        found.add(int(values[0, 0]))
    assert found == {7, 250}


def mask_of(ids: set[int], vocab: int) -> NDArray[np.uint32]:
    mask = np.zeros(-(-vocab // 32), np.uint32)
    for id in ids:
        mask[id // 32] |= np.uint32(1 << id % 32)
    return mask
