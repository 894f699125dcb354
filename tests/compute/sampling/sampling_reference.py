"""Sampling of one row in plain Python and fp64: the answer key. Slow, and shares no code with the product."""

from __future__ import annotations

import math
from collections.abc import Sequence

from weft.base.step.sampling_params import SamplingParams

CLOSE = 1e-4


class TooCloseToCall(Exception):
    """A cut or the draw falls so near a boundary that fp32 and fp64 may differ."""


def adjusted(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], output: Sequence[int], ends: Sequence[int]
) -> list[float]:
    """Logits after bias, penalties and the ban of ends."""
    x = list(logits)
    for token, value in params.logit_bias:
        x[token] += value
    for token in set(prompt) | set(output):
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token in set(output):
        x[token] -= params.frequency_penalty * list(output).count(token) + params.presence_penalty
    if len(output) < params.min_tokens:
        for token in {*ends, *params.stop_token_ids}:
            x[token] = -math.inf
    for token in range(len(x)):
        allowed = params.allowed_token_ids is None or token in params.allowed_token_ids
        tail = [*output, token]
        if not allowed or any(tail[-len(run) :] == list(run) for run in params.bad_token_ids):
            x[token] = -math.inf
    return x


def probabilities(x: Sequence[float], params: SamplingParams) -> list[float]:
    """What each token is drawn with; not normalized."""
    peak = max(x)
    mass = [math.exp((value - peak) / params.temperature) for value in x]
    for value in mass:
        _apart(value, params.min_p)
    mass = [value if value >= params.min_p else 0.0 for value in mass]
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if params.top_k > 0:
        order = order[: params.top_k]
    total, before, kept = sum(mass[token] for token in order), 0.0, set()
    for token in order:
        if params.top_p < 1:
            _apart(before, params.top_p * total)
        if before < params.top_p * total or params.top_p == 1:
            kept.add(token)
        before += mass[token]
    return [value if token in kept else 0.0 for token, value in enumerate(mass)]


def chosen(x: Sequence[float], params: SamplingParams, number: float) -> int:
    """The token at `number` in [0, 1) of the cumulated mass, in the order of ids; greedy at temperature 0."""
    if params.temperature < 1e-5:
        for value in x:
            _apart(value, max(x))
        return max(range(len(x)), key=lambda token: (x[token], -token))
    mass = probabilities(x, params)
    target, reached = number * sum(mass), 0.0
    for token, value in enumerate(mass):
        reached += value
        if value:
            _apart(reached, target)
        if reached > target:
            return token
    raise AssertionError("the mass ends before the target")


def _apart(a: float, b: float) -> None:
    if a != b and abs(a - b) < CLOSE * max(abs(a), abs(b)) < math.inf:
        raise TooCloseToCall
