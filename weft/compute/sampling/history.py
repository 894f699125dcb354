"""What changes a request's logits: bias, penalties over its tokens, and tokens it may not end with yet. Host records.

A step packs the token lists of all rows into one index, so that each kind of change is one gather and one scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.base.step.plan import NewRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import FP32_MAX
from weft.compute.sampling.rules import Rules

Ids = NDArray[np.int64]
Values = NDArray[np.float32]
Part = tuple[int, Ids, Values]
"""Row, ids [n] and values [n, w] of one row's change."""


class History:
    """The distinct tokens of one request, each with how often it was generated (0: it is in the prompt only)."""

    def __init__(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> None:
        self._place: dict[int, int] = {}
        self._ids: Ids = np.empty(64, np.int64)
        self._counts: NDArray[np.float32] = np.empty(64, np.float32)
        for token in prompt_ids:
            self._entry(token)
        for token in output_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """One more generated `token`."""
        entry = self._entry(token)  # first: it may replace the arrays
        self._counts[entry] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._place)]

    def _entry(self, token: int) -> int:
        entry = self._place.get(token)
        if entry is None:
            entry = self._place[token] = len(self._place)
            if entry == len(self._ids):
                self._ids, self._counts = np.resize(self._ids, 2 * entry), np.resize(self._counts, 2 * entry)
            self._ids[entry], self._counts[entry] = token, 0
        return entry


@dataclass(slots=True)
class Slot:
    """One running request: its parameters, and what they need at every token. `history` only where penalties are
    asked."""

    params: SamplingParams
    seed: int
    history: History | None
    bias_ids: Ids
    bias: Values
    ends: Ids
    rules: Rules | None

    @classmethod
    def of(cls, admit: NewRequest, eos_token_ids: Sequence[int]) -> Slot:
        params = admit.params
        repeats = params.repetition_penalty != 1
        penalized = repeats or params.presence_penalty != 0 or params.frequency_penalty != 0
        return cls(
            params=params,
            seed=admit.seed,
            history=History(admit.prompt_ids if repeats else (), admit.output_ids) if penalized else None,
            bias_ids=np.array([token for token, _ in params.logit_bias], np.int64),
            bias=np.array([[value] for _, value in params.logit_bias], np.float32),
            ends=np.array(sorted({*eos_token_ids, *params.stop_token_ids}), np.int64),
            rules=Rules.of(admit),
        )

    def add(self, token: int) -> None:
        """One more generated `token`."""
        if self.history is not None:
            self.history.add(token)
        if self.rules is not None:
            self.rules.add(token)


def adjust(logits: Tensor, slots: Sequence[Slot], output_pos: Sequence[int]) -> Tensor:
    """logits [m, V] with bias, then repetition, frequency and presence penalties, then -inf for ends before
    min_tokens and for what `Rules` rule out, as vLLM defines them; `logits` itself where no row asks for any.
    output_pos[i]: tokens that row i has generated."""
    bias = [(row, s.bias_ids, s.bias) for row, s in enumerate(slots) if len(s.bias_ids)]
    penalties = [_penalty(row, s.params, s.history) for row, s in enumerate(slots) if s.history is not None]
    early = [row for row, s in enumerate(slots) if output_pos[row] < s.params.min_tokens and len(s.ends)]
    ruled = [(row, slot.rules) for row, slot in enumerate(slots) if slot.rules is not None]
    if not (bias or penalties or early or ruled):
        return logits
    changed = logits.clone()
    if bias:
        index, values = _pack(bias, logits)
        changed.index_put_(index, values[:, 0], accumulate=True)
    if penalties:
        index, values = _pack(penalties, logits)
        changed.index_put_(index, _penalize(changed[index], values))
    if early:
        banned = [(row, slots[row].ends, np.full((len(slots[row].ends), 1), -np.inf, np.float32)) for row in early]
        index, values = _pack(banned, logits)
        changed.index_put_(index, values[:, 0])
    for row, rules in ruled:
        rules.apply(changed[row])
    return changed


def _penalty(row: int, params: SamplingParams, history: History) -> Part:
    factors = (min(params.repetition_penalty, FP32_MAX), params.frequency_penalty, params.presence_penalty)
    values = np.empty((len(history.ids), 4), np.float32)
    values[:, 0], values[:, 1:] = history.counts, factors
    return row, history.ids, values


def _penalize(x: Tensor, values: Tensor) -> Tensor:
    count, repetition, frequency, presence = values.unbind(-1)
    x = torch.where(x > 0, x / repetition, x * repetition)
    return x - frequency * count - presence * (count > 0)


def _pack(parts: Sequence[Part], like: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """((rows, ids), values) of all parts, on the device and in the dtype of `like`."""
    rows = np.repeat([row for row, _, _ in parts], [len(ids) for _, ids, _ in parts])
    index = torch.from_numpy(np.stack((rows, np.concatenate([ids for _, ids, _ in parts])))).to(like.device)
    values = torch.from_numpy(np.concatenate([values for _, _, values in parts]))
    return (index[0], index[1]), values.to(device=like.device, dtype=like.dtype)
