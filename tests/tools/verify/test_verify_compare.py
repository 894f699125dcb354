"""The rules of agreement: tolerance of logits, and tokens that may part only where the reference was undecided."""

from __future__ import annotations

import pytest
import torch

from weft.compute.ops.base import Numerics
from weft.tools.verify.compare import compare, compare_tokens, relative_difference, tolerance_of
from weft.tools.verify.record import GreedyOutput


def outcome(tokens: list[int], rows: list[list[float]]) -> GreedyOutput:
    return GreedyOutput(tokens, [torch.tensor(row) for row in rows])


REFERENCE = [outcome([2, 0], [[1.0, 5.0, 10.0], [10.0, 9.99, 0.0]])]


def test_equal_runs_agree() -> None:
    found = compare(REFERENCE, REFERENCE, 1e-6)
    assert found.agrees and found.tokens == 2 and found.largest_difference == 0


@pytest.mark.parametrize(("tolerance", "decided", "enough"), [(1e-6, 2, True), (0.01, 1, True), (0.6, 0, False)])
def test_a_token_is_decided_where_any_other_would_be_a_failure(tolerance: float, decided: int, enough: bool) -> None:
    for found in (compare(REFERENCE, REFERENCE, tolerance), compare_tokens(REFERENCE, [[2, 0]], tolerance)):
        assert (found.asked, found.tokens, found.decided, found.enough) == (2, 2, decided, enough)
        assert found.agrees, "nothing speaks against it"


def test_behind_a_divergence_nothing_is_decided() -> None:
    reference = [outcome([2, 0, 1], [[1.0, 5.0, 10.0], [10.0, 9.99, 0.0], [0.0, 9.0, 1.0]])]
    found = compare_tokens(reference, [[2, 1, 1]], 0.01)
    assert (found.asked, found.tokens, found.decided) == (3, 2, 1)
    assert found.agrees and not found.enough


def test_rounded_rows_may_lie_further_apart_than_the_dtypes_order_of_sums() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        usual, rounded = (
            tolerance_of(Numerics(dtype, quantization="int8", int8_activations=rows)) for rows in (False, True)
        )
        assert usual < rounded < 0.5, "half of the range is what a wrong slice moves"


def test_logits_beyond_the_tolerance_are_a_failure_though_tokens_are_equal() -> None:
    other = [outcome([2, 0], [[1.0, 5.5, 10.0], [10.0, 9.99, 0.0]])]
    assert not compare(REFERENCE, other, 0.01).agrees
    assert compare(REFERENCE, other, 0.06).agrees


@pytest.mark.parametrize(("step", "token", "excused"), [(1, 1, True), (0, 1, False), (1, 2, False)])
def test_a_token_may_part_where_the_reference_was_undecided(step: int, token: int, excused: bool) -> None:
    tokens = [2, 0]
    tokens[step] = token
    found = compare_tokens(REFERENCE, [tokens], 0.01)
    (divergence,) = found.divergences
    assert (divergence.step, divergence.other, divergence.excused, found.agrees) == (step, token, excused, excused)


def test_after_a_divergence_nothing_is_compared() -> None:
    other = [outcome([2, 1], [[1.0, 5.0, 10.0], [10.0, 9.99, 0.0]])]
    longer = [outcome([*REFERENCE[0].tokens, 5], [*map(torch.Tensor.tolist, REFERENCE[0].logits), [0.0, 0.0, 1.0]])]
    other[0].tokens.append(1)
    other[0].logits.append(torch.tensor([9.0, 0.0, 0.0]))
    assert compare(longer, other, 0.01).tokens == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_never_agrees(bad: float) -> None:
    good, broken = torch.tensor([1.0, 2.0]), torch.tensor([1.0, bad])
    assert relative_difference(good, broken) == relative_difference(broken, good) == float("inf")
    assert relative_difference(good, good[:1]) == float("inf")
    assert relative_difference(good[:0], good[:0]) == 0
