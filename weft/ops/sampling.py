"""Sampling: from logits to ids and log-probabilities, for the rows a rank owns. Knows no scheduler and no collective.

Order, as in vLLM: bias, penalties, ends masked until min_tokens, then for rows with a temperature: temperature,
min_p, top_k, top_p, one draw. Temperature 0 takes the largest logit, the lowest id among equals. Log-probabilities
are the raw model's. Every rank of an attention block keeps the same slots and sees every sampled id, so any of them
can sample any row; random numbers are a hash of (seed, output position). A row's result depends on no other row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from weft.ops.counter_hash import uniform
from weft.ops.draw import Draws, draw
from weft.ops.history import Slot, adjust
from weft.step.plan import Admit, Run, Sampled
from weft.step.sampling_params import SamplingParams

GREEDY_BELOW = 1e-5  # temperatures below are greedy, as in vLLM
NOT_FINITE = "the model gave a logit that is not a finite number"

_ID, _OK, _LOGPROB, _RANK, _TOP = 0, 1, 2, 3, 4


class Sampler:
    """State of `slots` requests, and sampling for them. A slot that nothing was admitted to is greedy (warm-up).

    Rows of values are fp64 [m, width]: id, 1 if it is one (0: the logits were not finite, the id means nothing) and,
    where any run of the attention block asks for log-probabilities: that of the id, its rank, then ids and then
    log-probabilities of the alternatives, -1 beyond a row's own number.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device, eos_token_ids: Sequence[int] = ()) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.eos_token_ids = tuple(eos_token_ids)
        idle = Admit(slot=0, prompt_ids=[], output_ids=[], params=SamplingParams(temperature=0.0), seed=0)
        self._slots = [Slot.of(idle, ()) for _ in range(slots)]

    def admit(self, admit: Admit) -> None:
        """A request takes its slot."""
        self._slots[admit.slot] = Slot.of(admit, self.eos_token_ids)

    def width(self, runs: Sequence[Run]) -> int:
        """Columns of the values that an attention block with these sampled runs shares; the same on each of its
        ranks."""
        asked = [n for run in runs if (n := self._slots[run.slot].params.logprobs) is not None]
        return _TOP + 2 * min(max(asked), self.vocab_size) if asked else _LOGPROB

    def sample(self, logits: Tensor, runs: Sequence[Run], width: int) -> Tensor:
        """Values [m, width] for logits [m, V], one row for each of `runs`."""
        values = torch.full((len(runs), width), -1.0, dtype=torch.float64, device=logits.device)
        if not runs:
            return values
        slots, output_pos = [self._slots[run.slot] for run in runs], [run.output_pos for run in runs]
        raw = logits.to(torch.promote_types(logits.dtype, torch.float32))
        adjusted = adjust(raw, slots, output_pos)
        ids = self._choose(adjusted, slots, output_pos)
        fine = torch.isfinite(raw.amin(-1)) & torch.isfinite(raw.amax(-1)) & torch.isfinite(adjusted.amax(-1))
        ids = ids.masked_fill(~fine, 0)
        values[:, _ID], values[:, _OK] = ids, fine
        asked = [row for row, slot in enumerate(slots) if slot.params.logprobs is not None]
        if asked:
            rows = torch.tensor(asked, device=logits.device)
            values[:, _LOGPROB:].index_copy_(0, rows, _logprobs(raw[rows], ids[rows], (width - _TOP) // 2))
        return values

    def remember(self, values: Tensor, runs: Sequence[Run]) -> list[Sampled]:
        """Takes in what the whole attention block sampled, and gives it as records in the order of `runs`."""
        records = [self._record(row, run.slot) for row, run in zip(values.tolist(), runs, strict=True)]
        for record in records:
            history = self._slots[record.slot].history
            if history is not None and record.error is None:
                history.add(record.token_id)
        return records

    def _choose(self, logits: Tensor, slots: Sequence[Slot], output_pos: Sequence[int]) -> Tensor:
        """Ids [m]; anything where logits are not finite."""
        drawn = [row for row, slot in enumerate(slots) if slot.params.temperature >= GREEDY_BELOW]
        if not drawn:
            return logits.argmax(-1)
        params = [slots[row].params for row in drawn]
        numbers = [uniform(slots[row].seed, output_pos[row]) for row in drawn]
        draws = Draws.of(params, numbers, logits.shape[-1], logits.device)
        if len(drawn) == len(slots):
            return draw(logits, draws).clamp_(max=logits.shape[-1] - 1)
        ids, rows = logits.argmax(-1), torch.tensor(drawn, device=logits.device)
        return ids.index_copy_(0, rows, draw(logits[rows], draws).clamp_(max=logits.shape[-1] - 1))

    def _record(self, row: Sequence[float], slot: int) -> Sampled:
        token = int(row[_ID])
        if not row[_OK]:
            return Sampled(slot=slot, token_id=token, error=NOT_FINITE)
        asked = self._slots[slot].params.logprobs
        if asked is None:
            return Sampled(slot=slot, token_id=token)
        most = (len(row) - _TOP) // 2
        ids, logprobs = row[_TOP : _TOP + most], row[_TOP + most :]
        top = [(int(i), value) for i, value in zip(ids[:asked], logprobs[:asked], strict=True)]
        return Sampled(slot=slot, token_id=token, logprob=row[_LOGPROB], rank_of_token=int(row[_RANK]), top=top)


def _logprobs(raw: Tensor, ids: Tensor, most: int) -> Tensor:
    """[rows, 2 + 2 * most] fp64: log-probability and rank (1: no token has a larger logit) of ids, the `most`
    likeliest ids, theirs."""
    logprobs = torch.log_softmax(raw, -1)
    chosen = logprobs.gather(-1, ids[:, None])
    rank = 1 + (raw > raw.gather(-1, ids[:, None])).sum(-1, keepdim=True)
    columns = [chosen.double(), rank.double()]
    if most:
        likeliest = _likeliest(raw, most)
        columns += [likeliest.double(), logprobs.gather(-1, likeliest).double()]
    return torch.cat(columns, -1)


def _likeliest(raw: Tensor, most: int) -> Tensor:
    """Ids [rows, most] by logit, the lower id first among equals (which torch's topk does not promise)."""
    edge = raw.topk(most, -1).values[:, -1:]
    rows, ids = (part.cpu().numpy() for part in (raw >= edge).nonzero(as_tuple=True))
    logits = raw[torch.from_numpy(rows).to(raw.device), torch.from_numpy(ids).to(raw.device)].cpu().numpy()
    order = np.lexsort((ids, -logits, rows))
    rows, ids = rows[order], ids[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    found = np.zeros((raw.shape[0], most), np.int64)
    inside = places < most
    found[rows[inside], places[inside]] = ids[inside]
    return torch.from_numpy(found).to(raw.device)
