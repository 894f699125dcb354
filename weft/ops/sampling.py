"""Sampling: from logits to ids and log-probabilities, for the rows a rank owns. Knows no scheduler and no collective.

Order, as in vLLM: bias, penalties, ends masked until min_tokens, tokens ruled out, then for rows with a temperature:
temperature, min_p, top_k, top_p, one draw. Temperature 0 takes the largest logit, the lowest id among equals.
Log-probabilities are the raw model's. Rows whose logits nothing changes are sampled in C++ where there is a kernel;
torch is its twin and serves the others. Every rank of an attention block keeps the same slots and sees every sampled
id, so any of them can sample any row; random numbers are a hash of (seed, output position). A row's result depends on
no other row.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.ops.counter_hash import uniform
from weft.ops.draw import Draws, draw
from weft.ops.history import Slot, adjust
from weft.ops.native_sampling import SamplingKernel, SlotTable
from weft.step.plan import Admit, Run, Sampled, TokenLogprob
from weft.step.sampling_params import SamplingParams

GREEDY_BELOW = 1e-5  # temperatures below are greedy, as in vLLM
NEVER = np.iinfo(np.int64).max
NOT_FINITE = "the model gave a logit that is not a finite number, or every token was ruled out"

_ID, _OK, _LOGPROB, _RANK, _TOP = 0, 1, 2, 3, 4


class Sampler:
    """State of `slots` requests, and sampling for them. A slot that nothing was admitted to is greedy (warm-up).

    Rows of values are fp64 [m, width]: id, 1 if it is one (0: the logits were not finite, the id means nothing) and,
    where any run of the attention block asks for log-probabilities: that of the id, its rank, then ids and then
    log-probabilities of the alternatives, -1 beyond a row's own number.
    """

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        device: torch.device,
        eos_token_ids: Sequence[int] = (),
        kernel: SamplingKernel | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.kernel = kernel
        self._table = SlotTable(slots, vocab_size)
        self._plain_from: NDArray[np.int64] = np.zeros(slots, np.int64)
        """From which output position on nothing changes a slot's logits."""
        self._changing: set[int] = set()
        """Slots whose logits are changed, at some position or at all."""
        self._asking: set[int] = set()
        """Slots that ask for log-probabilities."""
        self._following: set[int] = set()
        """Slots that want to know what they are given."""
        self.eos_token_ids = tuple(eos_token_ids)
        idle = Admit(slot=0, prompt_ids=[], output_ids=[], params=SamplingParams(temperature=0.0), seed=0)
        self._slots = [Slot.of(idle, ()) for _ in range(slots)]

    def admit(self, admit: Admit) -> None:
        """A request takes its slot."""
        self._slots[admit.slot] = slot = Slot.of(admit, self.eos_token_ids)
        params = admit.params
        temperature = params.temperature if params.temperature >= GREEDY_BELOW else 0.0
        self._table.set(admit.slot, temperature, params.top_k, params.top_p, params.min_p, admit.seed)
        always = slot.history is not None or slot.rules is not None or len(slot.bias_ids)
        plain_from = NEVER if always else params.min_tokens if len(slot.ends) else 0
        self._plain_from[admit.slot] = plain_from
        asks = params.logprobs is not None or params.prompt_logprobs is not None
        follows = slot.history is not None or slot.rules is not None
        for slots, member in ((self._changing, plain_from > 0), (self._asking, asks), (self._following, follows)):
            (slots.add if member else slots.discard)(admit.slot)

    def width(self, runs: Sequence[Run]) -> int:
        """Columns of the values that an attention block with these sampled runs shares; the same on each of its
        ranks."""
        if not self._asking:
            return _LOGPROB
        asked = [n for run in runs if (n := self._alternatives(run)) is not None]
        return _TOP + 2 * min(max(asked), self.vocab_size) if asked else _LOGPROB

    def sample(self, logits: Tensor, runs: Sequence[Run], width: int) -> Tensor:
        """Values [m, width] for logits [m, V], one row for each of `runs`; a run without `sample` has its target as
        id."""
        if runs and width == _LOGPROB and not self._changing and self.kernel is not None and _for_kernel(logits):
            values = torch.empty((len(runs), width), dtype=torch.float64)
            self.kernel(logits, self._table, *_places(runs), values)
            return values
        values = torch.full((len(runs), width), -1.0, dtype=torch.float64, device=logits.device)
        if not runs:
            return values
        raw = logits if logits.dtype == torch.float32 else logits.to(torch.promote_types(logits.dtype, torch.float32))
        rest = self._sample_plain(raw, runs, values)
        if len(rest) == len(runs):
            self._sample_any(raw, runs, values)
        elif rest:
            rows = torch.tensor(rest, device=raw.device)
            part = values[rows]
            self._sample_any(raw[rows], [runs[row] for row in rest], part)
            values.index_copy_(0, rows, part)
        asked = [row for row, run in enumerate(runs) if self._alternatives(run) is not None] if width > _LOGPROB else []
        if asked:
            rows = torch.tensor(asked, device=logits.device)
            chosen = values[rows, _ID].long()
            values[:, _LOGPROB:].index_copy_(0, rows, _logprobs(raw[rows], chosen, (width - _TOP) // 2))
        return values

    def _sample_plain(self, raw: Tensor, runs: Sequence[Run], values: Tensor) -> list[int]:
        """Samples the rows that the kernel can; the others."""
        if self.kernel is None or raw.dtype != torch.float32:
            return list(range(len(runs)))
        slots, positions = _places(runs)
        plain = positions >= self._plain_from[slots]
        if plain.all():
            self.kernel(raw if raw.stride(1) == 1 else raw.contiguous(), self._table, slots, positions, values)
            return []
        if plain.any():
            rows = torch.from_numpy(plain.nonzero()[0])
            part = torch.empty(len(rows), 2, dtype=torch.float64)
            self.kernel(raw[rows], self._table, slots[plain], positions[plain], part)
            values[rows, :_LOGPROB] = part
        return [int(row) for row in (~plain).nonzero()[0]]

    def _sample_any(self, raw: Tensor, runs: Sequence[Run], values: Tensor) -> None:
        ids, fine = self._ids(raw, runs)
        values[:, _ID], values[:, _OK] = ids.masked_fill(~fine, 0), fine

    def remember(self, values: Tensor, runs: Sequence[Run]) -> list[Sampled]:
        """Takes in what the whole attention block sampled, and gives it as records in the order of `runs`; rows that
        score a request's prompt are part of its one record."""
        records: list[Sampled] = []
        scored: list[TokenLogprob | None] = []
        if not self._asking and values.shape[1] == _LOGPROB:
            records = [
                Sampled(slot=run.slot, token_id=int(token), error=None if fine else NOT_FINITE)
                for (token, fine), run in zip(values.tolist(), runs, strict=True)
            ]
            return self._followed(records)
        for index, (row, run) in enumerate(zip(values.tolist(), runs, strict=True)):
            if run.sample:
                records.append(self._record(row, run, scored))
            else:
                scored.append(self._logprob(row, run) if row[_OK] else None)
                if index + 1 < len(runs) and runs[index + 1].slot == run.slot:
                    continue
                records.append(_record_of(run.slot, -1, scored))
            scored = []
        return self._followed(records)

    def _followed(self, records: list[Sampled]) -> list[Sampled]:
        for record in records if self._following else ():
            if record.slot in self._following and record.error is None and record.token_id >= 0:
                self._slots[record.slot].add(record.token_id)
        return records

    def _alternatives(self, run: Run) -> int | None:
        """How many beside the token itself; None: no log-probabilities."""
        params = self._slots[run.slot].params
        return params.logprobs if run.sample else params.prompt_logprobs

    def _ids(self, raw: Tensor, runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
        """The id of each row, and whether its logits are finite."""
        drawn = [row for row, run in enumerate(runs) if run.sample]
        if len(drawn) == len(runs):
            return self._drawn(raw, runs)
        ids = torch.tensor([0 if run.sample else run.targets[0] for run in runs], device=raw.device)
        fine = torch.isfinite(raw.amin(-1)) & torch.isfinite(raw.amax(-1))
        if drawn:
            rows = torch.tensor(drawn, device=raw.device)
            chosen, good = self._drawn(raw[rows], [runs[row] for row in drawn])
            ids.index_copy_(0, rows, chosen)
            fine.index_copy_(0, rows, good)
        return ids, fine

    def _drawn(self, raw: Tensor, runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
        slots, output_pos = [self._slots[run.slot] for run in runs], [run.output_pos for run in runs]
        adjusted = adjust(raw, slots, output_pos)
        fine = torch.isfinite(raw.amin(-1)) & torch.isfinite(raw.amax(-1)) & torch.isfinite(adjusted.amax(-1))
        return self._choose(adjusted, slots, output_pos), fine

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

    def _record(self, row: Sequence[float], run: Run, scored: Sequence[TokenLogprob | None]) -> Sampled:
        token = int(row[_ID])
        if not row[_OK]:
            return Sampled(slot=run.slot, token_id=token, error=NOT_FINITE)
        if self._alternatives(run) is None:
            return _record_of(run.slot, token, scored)
        own = self._logprob(row, run)
        record = _record_of(run.slot, token, scored)
        return msgspec.structs.replace(record, logprob=own.logprob, rank_of_token=own.rank, top=own.top)

    def _logprob(self, row: Sequence[float], run: Run) -> TokenLogprob:
        asked, most = self._alternatives(run) or 0, (len(row) - _TOP) // 2
        ids, logprobs = row[_TOP : _TOP + most], row[_TOP + most :]
        top = [(int(i), value) for i, value in zip(ids[:asked], logprobs[:asked], strict=True)]
        return TokenLogprob(int(row[_ID]), row[_LOGPROB], int(row[_RANK]), top)


def _for_kernel(logits: Tensor) -> bool:
    return logits.dtype == torch.float32 and logits.stride(1) == 1


def _places(runs: Sequence[Run]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots, and how many tokens their requests had generated; -1 for rows that are only scored."""
    slots = np.array([run.slot for run in runs], np.int64)
    return slots, np.array([run.output_pos if run.sample else -1 for run in runs], np.int64)


def _record_of(slot: int, token: int, scored: Sequence[TokenLogprob | None]) -> Sampled:
    """One bad row spoils the request's record."""
    prompt = [one for one in scored if one is not None]
    if len(prompt) < len(scored):
        return Sampled(slot=slot, token_id=token, error=NOT_FINITE)
    return Sampled(slot=slot, token_id=token, prompt=prompt)


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
