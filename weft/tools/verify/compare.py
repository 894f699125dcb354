"""When two runs agree: logits within the dtype's tolerance, tokens equal unless the reference itself was undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.base import Numerics
from weft.tools.verify.record import GreedyOutput

RELATIVE_TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 2e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 6e-2,
}
"""Largest difference of a result, as a share of its largest magnitude, that the order of sums explains.

A wrong slice, a lost addend or a shifted position moves logits by more than half of their range."""
ROUNDED_ROWS_TOLERANCE = 0.15
"""The same with int8 activations: a difference in the last digit can change a quantized value by 1/127 of the largest
in its group."""


def tolerance_of(numerics: Numerics) -> float:
    """How far results may lie apart for the order of sums alone."""
    usual = RELATIVE_TOLERANCE[numerics.dtype]
    return max(usual, ROUNDED_ROWS_TOLERANCE) if numerics.int8_activations else usual


LEAST_DECIDED = 0.5
"""Share of the tokens asked for that must be decided before two runs are said to agree."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first token of a request at which two runs differ. `gap`: how much the reference preferred its own token."""

    request: int
    step: int
    reference: int
    other: int
    gap: float
    tolerance: float

    @property
    def excused(self) -> bool:
        """Whether the reference was undecided: its own gap lies below the tolerance."""
        return self.gap <= self.tolerance


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison found over all requests. Differences of logits are shares of the row's largest magnitude.

    `asked`: tokens of all requests; `tokens`: those that were compared, none after a divergence; `decided`: of these,
    those that are equal, and that the reference preferred to any other by more than the tolerance: another one would
    have been a failure."""

    asked: int
    tokens: int
    decided: int
    largest_difference: float
    tolerance: float
    divergences: tuple[Divergence, ...]

    @property
    def agrees(self) -> bool:
        """Logits within tolerance and every divergence excused."""
        return self.largest_difference <= self.tolerance and all(each.excused for each in self.divergences)

    @property
    def enough(self) -> bool:
        """Whether enough tokens were decided for a verdict."""
        return self.decided >= LEAST_DECIDED * self.asked


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """max|reference - other| / max|reference|, in fp64; infinite where one is not finite. Zero for empty tensors."""
    if reference.shape != other.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    a, b = reference.double(), other.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("inf")
    scale = float(a.abs().max())
    difference = float((a - b).abs().max())
    return difference / scale if scale else difference


def compare(reference: Sequence[GreedyOutput], other: Sequence[GreedyOutput], tolerance: float) -> Agreement:
    """Compares request by request, each up to and including its first divergence."""
    largest, tokens, decided = 0.0, 0, 0
    divergences: list[Divergence] = []
    for request, (want, got) in enumerate(zip(reference, other, strict=True)):
        for step, (logits, others) in enumerate(zip(want.logits, got.logits, strict=True)):
            largest = max(largest, relative_difference(logits, others))
            tokens += 1
            if want.tokens[step] != got.tokens[step]:
                divergences.append(_divergence(request, step, want, got.tokens[step], tolerance))
                break
            decided += _decided(logits, tolerance)
    return Agreement(_asked(reference), tokens, decided, largest, tolerance, tuple(divergences))


def compare_tokens(reference: Sequence[GreedyOutput], tokens: Sequence[Sequence[int]], tolerance: float) -> Agreement:
    """Compares tokens alone, each request up to and including its first divergence."""
    divergences, compared, decided = [], 0, 0
    for request, (want, got) in enumerate(zip(reference, tokens, strict=True)):
        for step, token in enumerate(got):
            compared += 1
            if want.tokens[step] != token:
                divergences.append(_divergence(request, step, want, token, tolerance))
                break
            decided += _decided(want.logits[step], tolerance)
    return Agreement(_asked(reference), compared, decided, 0.0, tolerance, tuple(divergences))


def _asked(reference: Sequence[GreedyOutput]) -> int:
    return sum(len(outcome.tokens) for outcome in reference)


def _decided(logits: Tensor, tolerance: float) -> bool:
    """Whether the largest logit is ahead of all others by more than the tolerance."""
    first, second = logits.double().topk(2).values
    return bool(first - second > tolerance * logits.double().abs().max())


def _divergence(request: int, step: int, want: GreedyOutput, theirs: int, tolerance: float) -> Divergence:
    logits, mine = want.logits[step].double(), want.tokens[step]
    gap = float(logits[mine] - logits[theirs])
    return Divergence(request, step, mine, theirs, gap, tolerance * float(logits.abs().max()))
