"""The sampler: parameters, history, log-probabilities, errors; a row depends on no other; against a plain reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.ops.operation_count import count_operations
from tests.compute.sampling.sampling_reference import TooCloseToCall, adjusted, chosen
from weft.base.step.plan import DecodeRows, GroupPlan, GroupResult, NewRequest, Sampled, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.sampling.counter_hash import uniform
from weft.compute.sampling.history import History
from weft.compute.sampling.sampled_rows import SampledRows, sampled_rows
from weft.compute.sampling.sampler import NOT_FINITE, Sampler

CPU = torch.device("cpu")
NO_STREAMS = np.zeros((3, 0), np.int64)
EOS = 3


def admit(sampler: Sampler, slot: int, prompt: Sequence[int] = (), output: Sequence[int] = (), **params: Any) -> None:
    seed = params.pop("seed", 7 + slot)
    sampler.admit(NewRequest(slot, list(prompt), list(output), SamplingParams(**params), seed))


def run_of(slot: int, output_pos: int = 0) -> ScheduledRequest:
    return ScheduledRequest(slot=slot, start=0, count=1, ids=[], blocks=[1], sample=True, output_pos=output_pos)


def step(sampler: Sampler, logits: Tensor, runs: Sequence[ScheduledRequest]) -> list[Sampled]:
    rows = rows_of(runs)
    return sampler.remember(sampler.sample(logits, rows, sampler.width(rows)), rows).runs


def rows_of(runs: Sequence[ScheduledRequest]) -> SampledRows:
    return sampled_rows(NO_STREAMS, runs)


def ids(sampler: Sampler, logits: Tensor, runs: Sequence[ScheduledRequest]) -> list[int]:
    return [sampled.token_id for sampled in step(sampler, logits, runs)]


def make(slots: int = 4, vocab: int = 50, **params: Any) -> Sampler:
    """A sampler whose slots all have the same parameters."""
    sampler = Sampler(slots, vocab, CPU, (EOS,))
    for slot in range(slots):
        admit(sampler, slot, **params)
    return sampler


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(3, 50)
    logits[1, 20], logits[1, 40], logits[2, 49] = 2, 2, 1
    assert ids(make(temperature=0.0), logits, [run_of(0), run_of(1), run_of(2)]) == [0, 20, 49]


@pytest.mark.filterwarnings("error")
def test_what_no_fp32_holds_counts_as_the_largest() -> None:
    logits = torch.tensor([[3.0, -2.0, 1.0, 0.0]])
    for size in (1e308, 1e39):
        assert ids(make(vocab=4, temperature=size), logits, [run_of(0)])[0] in range(4)
        sampler = Sampler(1, 4, CPU)
        admit(sampler, 0, prompt=[0], temperature=0.0, repetition_penalty=size)
        assert ids(sampler, logits, [run_of(0)]) == [2]


def test_a_slot_without_a_request_is_greedy() -> None:
    logits = torch.randn(1, 50)
    assert ids(Sampler(2, 50, CPU), logits, [run_of(1)]) == [int(logits.argmax())]


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1e-5}])
def test_cuts_to_one_token_are_greedy(params: dict[str, Any]) -> None:
    logits = torch.stack([torch.randperm(50) for _ in range(4)]) / 5  # the largest is clearly so
    runs = [run_of(slot, 5) for slot in range(4)]
    assert ids(make(**params), logits, runs) == logits.argmax(-1).tolist()


def test_top_k_keeps_the_lowest_ids_of_equal_logits() -> None:
    logits = torch.zeros(1, 50)
    drawn = {ids(make(top_k=3, seed=seed), logits, [run_of(0)])[0] for seed in range(60)}
    assert drawn == {0, 1, 2}


def test_top_p_of_what_top_k_leaves() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def drawn(**params: Any) -> set[int]:
        return {ids(make(vocab=4, seed=seed, **params), logits, [run_of(0)])[0] for seed in range(80)}

    assert drawn(top_p=0.6) == {0, 1}
    assert drawn(top_p=0.75) == {0, 1, 2}
    assert drawn(top_p=0.6, top_k=2) == {0, 1}
    assert drawn(top_p=0.55, top_k=2) == {0}
    assert drawn(min_p=0.49) == {0, 1, 2}
    assert drawn(min_p=0.51) == {0, 1}
    # min_p cuts first: of what it leaves, the first two have more than three quarters
    assert drawn(min_p=0.3, top_p=0.75) == {0, 1}


def test_bias_and_penalties() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0, 0.0, 0.5, 0.4]])

    def greedy(prompt: Sequence[int] = (), output: Sequence[int] = (), **params: Any) -> int:
        sampler = Sampler(1, 6, CPU)
        admit(sampler, 0, prompt, output, temperature=0.0, **params)
        return ids(sampler, logits, [run_of(0, len(output))])[0]

    assert greedy(logit_bias=((2, 3.5),)) == 2
    assert greedy(logit_bias=((1, -100.0), (0, -100.0))) == 4
    assert greedy([1], repetition_penalty=2.1) == 0
    assert greedy([1, 0], repetition_penalty=10.0) == 4
    assert greedy([1], presence_penalty=2.0) == 1
    assert greedy([], [1], presence_penalty=1.5) == 0
    assert greedy([], [1, 1, 1, 0], frequency_penalty=0.4) == 1
    assert greedy([], [1, 1, 1, 0], frequency_penalty=0.7) == 4
    assert greedy([], [1], presence_penalty=-2.0, logit_bias=((0, 1.5),)) == 1


def test_penalties_follow_what_was_sampled_and_a_new_request_starts_anew() -> None:
    sampler = Sampler(2, 4, CPU)
    logits = torch.tensor([[3.0, 2.5, 2.0, 0.0]])
    for _ in range(2):
        admit(sampler, 1, [3], [], temperature=0.0, frequency_penalty=1.0)
        assert [ids(sampler, logits, [run_of(1, at)])[0] for at in range(5)] == [0, 1, 0, 2, 1]


def test_history_survives_a_preemption() -> None:
    whole, resumed = Sampler(1, 30, CPU), Sampler(1, 30, CPU)
    params: dict[str, Any] = {"temperature": 0.7, "repetition_penalty": 1.3, "presence_penalty": 0.5, "seed": 5}
    logits = torch.randn(12, 30)
    admit(whole, 0, [1, 2], **params)
    wanted = [ids(whole, logits[at : at + 1], [run_of(0, at)])[0] for at in range(12)]
    admit(resumed, 0, [1, 2], wanted[:6], **params)
    assert [ids(resumed, logits[at : at + 1], [run_of(0, at)])[0] for at in range(6, 12)] == wanted[6:]


def test_long_histories() -> None:
    sampler = Sampler(1, 5000, CPU)
    prompt = [token % 4000 for token in range(9000)]
    admit(sampler, 0, prompt, prompt[:3000], temperature=0.0, repetition_penalty=2.0, presence_penalty=1.0)
    logits = torch.full((1, 5000), 5.0)
    logits[0, 4500] = 4.9
    assert ids(sampler, logits, [run_of(0, 3000)]) == [4000]


def test_ends_are_masked_until_min_tokens() -> None:
    sampler = make(temperature=0.0, min_tokens=2, stop_token_ids=(8,), logit_bias=((EOS, 100.0),))
    logits = torch.zeros(1, 50)
    logits[0, EOS], logits[0, 8], logits[0, 9] = 5, 4, 3
    assert [ids(sampler, logits, [run_of(0, at)])[0] for at in range(4)] == [9, 9, EOS, EOS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error_of_their_row(temperature: float, bad: float) -> None:
    logits = torch.randn(3, 50)
    wanted = step(make(temperature=temperature, presence_penalty=0.5), logits, [run_of(0), run_of(1), run_of(2)])
    logits[1, 17] = bad
    rows = rows_of([run_of(0), run_of(1), run_of(2)])
    sampler = make(temperature=temperature, presence_penalty=0.5)
    values = sampler.sample(logits, rows, sampler.width(rows))
    assert values[:, 0].min() >= 0 and values[:, 0].max() < 50
    got = sampler.remember(values, rows).runs
    assert got[0] == wanted[0] and got[2] == wanted[2] and got[1].error == NOT_FINITE
    history = sampler._slots[1].history
    assert history is not None and len(history.ids) == 0


def test_a_row_that_may_draw_nothing_is_an_error() -> None:
    sampler = make(vocab=2, min_tokens=5, stop_token_ids=(0, 1), slots=1)
    sampler.eos_token_ids = ()
    admit(sampler, 0, min_tokens=5, stop_token_ids=(0, 1))
    assert step(sampler, torch.randn(1, 2), [run_of(0)])[0].error == NOT_FINITE


def test_logprobs_are_the_raw_models() -> None:
    sampler = Sampler(4, 50, CPU)
    admit(sampler, 0, temperature=0.0, logprobs=3, logit_bias=((5, 50.0),))
    admit(sampler, 1, temperature=0.0)
    admit(sampler, 2, temperature=0.3, logprobs=0)
    logits = torch.randn(3, 50).clamp(-3, 3)
    logits[0, 10], logits[0, 30], logits[0, 20] = 4, 4, 6
    first, second, third = step(sampler, logits, [run_of(0), run_of(1), run_of(2)])
    wanted = logits.double().log_softmax(-1)
    assert first.token_id == 5 and first.logprob == pytest.approx(float(wanted[0, 5]), abs=1e-5)
    assert first.rank_of_token == 1 + int((logits[0] > logits[0, 5]).sum())
    assert [token for token, _ in first.top] == [20, 10, 30]
    assert [value for _, value in first.top] == pytest.approx(wanted[0, [20, 10, 30]].tolist(), abs=1e-5)
    assert second.logprob is None and second.top == []
    assert third.top == [] and third.logprob == pytest.approx(float(wanted[2, third.token_id]), abs=1e-5)


def test_alternatives_among_equal_logits_are_the_lowest_ids() -> None:
    sampler = make(temperature=0.0, logprobs=5)
    got = step(sampler, torch.zeros(2, 50), [run_of(0), run_of(1)])
    assert [[token for token, _ in sampled.top] for sampled in got] == [[0, 1, 2, 3, 4]] * 2
    assert all(value == pytest.approx(-math.log(50)) for _, value in got[0].top)


def test_tokens_are_named_instead_of_the_likeliest() -> None:
    sampler = Sampler(4, 50, CPU)
    admit(sampler, 0, temperature=0.0, logprobs=0, logprob_token_ids=(40, 7, 20, 8))
    admit(sampler, 1, temperature=0.0, logprobs=2)
    admit(sampler, 2, temperature=1.0, logprobs=6, logprob_token_ids=(3,))
    logits = torch.randn(3, 50)
    logits[0, 7] = logits[0, 8] = 1.5
    first, second, third = step(sampler, logits, [run_of(slot) for slot in range(3)])
    wanted = logits.double().log_softmax(-1)
    assert sorted(token for token, _ in first.top) == [7, 8, 20, 40] and [t for t, _ in first.top if t < 9] == [7, 8]
    assert [value for _, value in first.top] == sorted((value for _, value in first.top), reverse=True)
    assert len(second.top) == 2 and [token for token, _ in third.top] == [3]
    for row, one in enumerate((first, second, third)):
        for token, value in [*one.top, (one.token_id, one.logprob)]:
            assert value == pytest.approx(float(wanted[row, token]), abs=1e-5)


def test_more_alternatives_than_tokens() -> None:
    got = step(make(vocab=3, logprobs=20), torch.tensor([[1.0, 3.0, 2.0]]), [run_of(0)])[0]
    assert [token for token, _ in got.top] == [1, 2, 0]


def test_no_rows() -> None:
    sampler = make()
    width = sampler.width(rows_of([run_of(0)]))
    values = sampler.sample(torch.empty(0, 50), rows_of([]), width)
    assert values.shape == (0, width) and sampler.remember(values, rows_of([])) == GroupResult()


def test_16_bit_logits_are_sampled_as_fp32() -> None:
    logits = torch.randn(4, 50).bfloat16()
    runs = [run_of(slot, 3) for slot in range(4)]
    assert ids(make(top_p=0.9), logits, runs) == ids(make(top_p=0.9), logits.float(), runs)


# --- rows and batches -------------------------------------------------------------------------------------------------

VARIED: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 40, "logprobs": 4},
    {"temperature": 1.2, "logprobs": 1, "logprob_token_ids": (5, 6)},
    {"temperature": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 0.0, "frequency_penalty": 0.5, "logprobs": 0},
    {
        "temperature": 0.8,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.01,
        "logit_bias": ((3, 4.0), (9, -50.0)),
        "min_tokens": 9,
    },
    {"temperature": 2.0, "presence_penalty": -0.5, "min_tokens": 1, "stop_token_ids": (11,)},
)


def varied(count: int, vocab: int) -> Sampler:
    sampler = Sampler(count, vocab, CPU, (EOS,))
    for slot in range(count):
        admit(sampler, slot, range(slot, slot + 9), range(slot + 5, slot + 12), **VARIED[slot % len(VARIED)])
    return sampler


def test_a_row_depends_on_no_other(two_threads: None) -> None:
    count, vocab = 33, 1003
    logits = 4 * torch.randn(count, vocab)
    runs = [run_of(slot, 7) for slot in range(count)]
    together = step(varied(count, vocab), logits, runs)
    order = torch.randperm(count).tolist()
    shuffled = step(varied(count, vocab), logits[order], [runs[slot] for slot in order])
    assert [shuffled[order.index(slot)] for slot in range(count)] == together
    for slot in range(count):
        assert step(varied(count, vocab), logits[slot : slot + 1], [runs[slot]]) == [together[slot]]
    for begin, end in ((0, 2), (3, 8), (7, 20)):
        assert step(varied(count, vocab), logits[begin:end], runs[begin:end]) == together[begin:end]


def test_every_rank_of_a_block_remembers_the_same() -> None:
    """Rows sampled on two ranks, shared, and remembered on both give what one rank gives."""
    count, vocab = 8, 60
    ranks, alone = [varied(count, vocab), varied(count, vocab)], varied(count, vocab)
    for at in range(7, 12):
        logits = torch.randn(count, vocab)
        runs = [run_of(slot, at) for slot in range(count)]
        rows = rows_of(runs)
        width = ranks[0].width(rows)
        parts = [(0, 5), (5, 8)]
        own = [
            rank.sample(logits[lo:hi], rows.part(lo, hi), width) for rank, (lo, hi) in zip(ranks, parts, strict=True)
        ]
        first, second = (rank.remember(torch.cat(own), rows) for rank in ranks)
        assert first.runs == second.runs == step(alone, logits, runs)


@pytest.mark.parametrize("streams", (1, 5, 8))
@pytest.mark.parametrize("bad", (None, 2))
def test_streams_are_told_as_columns_what_runs_are_told_as_records(streams: int, bad: int | None) -> None:
    """Also where the rows of a block lie on two ranks, of which one has streams and runs."""
    count, vocab = 8, 60
    sampler, alone = varied(count, vocab), varied(count, vocab)
    for at in range(7, 10):
        logits = torch.randn(count, vocab)
        if bad is not None:
            logits[bad] = math.nan
        runs = [run_of(slot, at) for slot in range(count)]
        plan = GroupPlan([], runs[streams:], DecodeRows.of(runs[:streams]))
        rows = sampled_rows(plan.decodes.array(), plan.runs)
        width = sampler.width(rows)
        values = torch.cat([sampler.sample(logits[lo:hi], rows.part(lo, hi), width) for lo, hi in ((0, 3), (3, 8))])
        result = sampler.remember(values, rows)
        wanted = step(alone, logits, runs)
        assert result.every(plan) == wanted and GroupResult.of(plan, wanted) == result
        telling = [each.slot for each in wanted[:streams] if each.logprob is not None or each.error]
        assert [each.slot for each in result.extras] == telling


@pytest.mark.parametrize("params", VARIED, ids=range(len(VARIED)))
def test_as_many_torch_operations_for_32_rows_as_for_1(params: dict[str, Any]) -> None:
    counts = set()
    for rows in (1, 2, 32):
        sampler = Sampler(rows, 200, CPU, (EOS,))
        for slot in range(rows):
            admit(sampler, slot, [1, 2, slot], [4], **params)
        logits, runs = torch.randn(rows, 200), [run_of(slot, 1) for slot in range(rows)]
        counts.add(count_operations(lambda: step(sampler, logits, runs)))  # noqa: B023
    assert len(counts) == 1


# --- against the reference --------------------------------------------------------------------------------------------

tokens = st.integers(0, 11)
params_strategy = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from((0.0, 0.3, 1.0, 1.7)),
        "top_p": st.sampled_from((1.0, 0.95, 0.5, 0.1)),
        "top_k": st.sampled_from((0, -1, 1, 2, 5, 12, 99)),
        "min_p": st.sampled_from((0.0, 0.02, 0.3, 1.0)),
        "presence_penalty": st.sampled_from((0.0, 1.5, -2.0)),
        "frequency_penalty": st.sampled_from((0.0, 0.4, -1.0)),
        "repetition_penalty": st.sampled_from((1.0, 1.4, 0.5)),
        "logit_bias": st.dictionaries(tokens, st.sampled_from((-100.0, -1.0, 2.5)), max_size=3).map(
            lambda bias: tuple(bias.items())
        ),
        "min_tokens": st.integers(0, 4),
        "stop_token_ids": st.lists(tokens, max_size=2).map(tuple),
        "allowed_token_ids": st.none() | st.lists(tokens, min_size=4).map(tuple),
        "bad_token_ids": st.lists(st.lists(tokens, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    }
)


@settings(max_examples=300, deadline=None)
@given(
    logits=st.lists(st.integers(-24, 24).map(lambda n: n / 4), min_size=12, max_size=12),
    params=params_strategy,
    prompt=st.lists(tokens, max_size=6),
    output=st.lists(tokens, max_size=6),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_equals_the_plain_reference(
    logits: list[float], params: dict[str, Any], prompt: list[int], output: list[int], seed: int
) -> None:
    record = SamplingParams(**params)
    x = adjusted(logits, record, prompt, output, (EOS,))
    assume(max(x) > -math.inf)
    try:
        wanted = chosen(x, record, uniform(seed, len(output)))
    except TooCloseToCall:
        assume(False)
    sampler = Sampler(1, 12, CPU, (EOS,))
    sampler.admit(NewRequest(0, prompt, output, record, seed))
    assert ids(sampler, torch.tensor([logits]), [run_of(0, len(output))]) == [wanted]


def test_a_history_counts_any_number_of_tokens() -> None:
    history = History(range(0, 300, 3), [])
    for token in [*range(700), *range(700)]:
        history.add(token)
    assert dict(zip(history.ids.tolist(), history.counts.tolist(), strict=True)) == dict.fromkeys(range(700), 2.0)


def test_a_bad_run_is_watched_while_it_grows_and_a_row_without_tokens_is_an_error() -> None:
    sampler = Sampler(2, 6, CPU)
    sampler.admit(NewRequest(0, [1], [], SamplingParams(temperature=0.0, bad_token_ids=((5, 5, 4), (3,))), 0))
    sampler.admit(
        NewRequest(1, [1], [], SamplingParams(temperature=1.0, allowed_token_ids=(3,), bad_token_ids=((3, 3),)), 0)
    )
    logits = torch.tensor([[0.0, 1, 2, 9, 3, 4], [0.0, 1, 2, 3, 4, 5]])
    found = []
    for at in range(3):
        logits[0, 4] = 9 if at == 2 else 3
        records = step(sampler, logits, [run_of(0, at), run_of(1, at)])
        found.append([record.token_id for record in records])
        if at == 0:
            assert records[1].error is None
        if at == 1:
            assert records[1].error is not None and "ruled out" in records[1].error
    assert [one[0] for one in found] == [5, 5, 5] and found[0][1] == 3
