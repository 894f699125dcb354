"""Statistics of draws, with fixed seeds: the numbers are uniform and unrelated, tokens come as often as they should."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from weft.base.step.sampling_params import SamplingParams
from weft.compute.sampling.counter_hash import uniform
from weft.compute.sampling.draw import Draws, draw

CPU = torch.device("cpu")


def chi_square_is_ordinary(counts: Sequence[int], expected: Sequence[float]) -> bool:
    """Within 4.5 deviations of its mean, on either side (Wilson and Hilferty): too even is suspicious as well."""
    free = len(counts) - 1
    statistic = sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))
    z = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    return bool(abs(z) < 4.5)


def bins(numbers: Sequence[float], count: int) -> list[int]:
    found = Counter(int(number * count) for number in numbers)
    return [found[index] for index in range(count)]


STREAMS = {
    "positions of a seed": [(42, position) for position in range(40_000)],
    "neighbouring seeds": [(seed, 0) for seed in range(40_000)],
    "seeds of high bits": [(seed << 40, 3) for seed in range(40_000)],
    "negative seeds": [(-seed, 1) for seed in range(1, 40_001)],
    "diagonal": [(at, at) for at in range(40_000)],
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_numbers_are_uniform_and_neighbours_unrelated(stream: list[tuple[int, int]]) -> None:
    numbers = [uniform(seed, position) for seed, position in stream]
    assert min(numbers) >= 0 and max(numbers) < 1 and len(set(numbers)) == len(numbers)
    assert chi_square_is_ordinary(bins(numbers, 256), [len(numbers) / 256] * 256)
    low_bits = [math.frexp(number * 2**40)[0] % 1 for number in numbers if number]
    assert len(set(low_bits)) > 0.99 * len(low_bits)
    pairs = [int(a * 16) * 16 + int(b * 16) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    assert chi_square_is_ordinary([Counter(pairs)[index] for index in range(256)], [len(pairs) / 256] * 256)


def test_known_numbers() -> None:
    """The hash is part of what a seed means: a change of it changes users' outputs."""
    known = {(0, 0): 0.652448486374, (0, 1): 0.701212109522, (1, 0): 0.368189515652, (-1, 0): 0.36624209017}
    assert {at: round(uniform(*at), 12) for at in known} == known
    assert uniform(2**64 + 5, 9) == uniform(5, 9)


def draws(params: SamplingParams, numbers: Sequence[float], vocab: int) -> Draws:
    return Draws.of([params] * len(numbers), numbers, vocab, CPU)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(temperature=1.0), range(40)),
        (SamplingParams(temperature=0.5), range(40)),
        (SamplingParams(temperature=2.0, top_k=10), range(10)),
        (SamplingParams(temperature=1.0, min_p=0.25), range(14)),
    ],
)
def test_tokens_come_as_often_as_their_probability(params: SamplingParams, kept: range) -> None:
    rows = 20_000
    logits = -0.1 * torch.arange(40).float()
    drawn = draw(logits.expand(rows, 40), draws(params, [uniform(11, at) for at in range(rows)], 40))
    counts = drawn.bincount(minlength=40).tolist()
    mass = [math.exp(float(logits[token]) / params.temperature) for token in kept]
    assert sum(counts[len(kept) :]) == 0
    assert chi_square_is_ordinary(counts[: len(kept)], [rows * value / sum(mass) for value in mass])


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    mass = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
    for top_p, kept in ((0.39, {1}), (0.41, {1, 3}), (0.66, {1, 3, 4}), (0.9, {1, 2, 3, 4}), (0.999, {0, 1, 2, 3, 4})):
        numbers = [(at + 0.5) / 400 for at in range(400)]
        drawn = draw(mass.log().expand(400, 5), draws(SamplingParams(top_p=top_p), numbers, 5))
        assert set(drawn.tolist()) == kept


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_range_draw_tokens_with_mass(number: float) -> None:
    logits = torch.full((1, 1000), -1000.0)
    logits[0, 5], logits[0, 900] = 0.0, 0.0
    wanted = 5 if number < 0.5 else 900
    for dtype in (torch.float32, torch.float64):
        assert draw(logits.to(dtype), draws(SamplingParams(), [number], 1000)).tolist() == [wanted]


def test_tiny_and_huge_temperatures() -> None:
    logits = torch.tensor([[1e4, 1e4 - 1, -1e4, 0.0]])
    assert draw(logits, draws(SamplingParams(temperature=1e-5), [0.999], 4)).tolist() == [0]
    flat = draw(
        logits.expand(400, 4), draws(SamplingParams(temperature=1e9), [(at + 0.5) / 400 for at in range(400)], 4)
    )
    assert flat.bincount(minlength=4).tolist() == [100, 100, 100, 100]
