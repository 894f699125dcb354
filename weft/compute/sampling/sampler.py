"""Sampling: from logits to ids and log-probabilities, for the rows a rank owns.

Order, as in vLLM: bias, penalties, ends masked until min_tokens, tokens ruled out, those that a grammar forbids, then
for rows with a temperature: temperature, min_p, top_k, top_p, one draw. Temperature 0 takes the largest logit, the
lowest id among equals. Log-probabilities are the raw model's. Rows whose logits nothing but a grammar changes are
sampled in C++ where there is a kernel; torch is its twin and serves the others. Every rank of an attention block keeps
the same slots and sees every sampled id, so any of them can sample any row; random numbers are a hash of (seed, output
position). A row's result depends on no other row.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.base.step.plan import GRAMMAR_FAILED, WORD, GroupPlan, GroupResult, NewRequest, Sampled, TokenLogprob
from weft.base.step.sampling_params import SamplingParams
from weft.compute.sampling.counter_hash import uniform
from weft.compute.sampling.draw import Draws, draw
from weft.compute.sampling.grammar_masks import GrammarMasks, Masks, as_bools
from weft.compute.sampling.history import Slot, adjust
from weft.compute.sampling.logprobs import logprobs_of, put_named
from weft.compute.sampling.native_sampling import SamplingKernel, SlotTable
from weft.compute.sampling.sampled_rows import Column, SampledRows
from weft.parallel.layout.boundaries import sampled_columns

GREEDY_BELOW = 1e-5  # temperatures below are greedy, as in vLLM
NEVER = np.iinfo(np.int64).max
NOT_FINITE = "the model gave a logit that is not a finite number, or every token was ruled out"

_ID, _OK, _LOGPROB, _RANK, _TOP = 0, 1, 2, 3, 4


class Sampler:
    """State of `slots` requests, and sampling for them. A slot that nothing was admitted to is greedy (warm-up).

    Rows of values are fp64 [m, width]: id, 1 if it is one (0: the logits were not finite, -1: the grammar failed; the
    id means nothing then) and, where any run of the attention block asks for log-probabilities: that of the id, its
    rank, then ids and then log-probabilities of the alternatives, -1 beyond a row's own number.
    """

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        device: torch.device,
        eos_token_ids: Sequence[int] = (),
        kernel: SamplingKernel | None = None,
        grammars: GrammarMasks | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.kernel = kernel
        self.grammars = grammars or GrammarMasks(None, vocab_size)
        self.table = SlotTable(slots, vocab_size)
        self._plain_from: NDArray[np.int64] = np.zeros(slots, np.int64)
        """From which output position on nothing but a grammar changes a slot's logits."""
        self.chosen_from: NDArray[np.int64] = np.zeros(slots, np.int64)
        """From which output position on that is all there is to a slot's row: no log-probability is asked for."""
        self.has_grammar: NDArray[np.uint8] = np.zeros(slots, np.uint8)
        self._asking: set[int] = set()
        """Slots that ask for log-probabilities."""
        self._following: set[int] = set()
        """Slots that want to know what they are given."""
        self.eos_token_ids = tuple(eos_token_ids)
        idle = NewRequest(slot=0, prompt_ids=[], output_ids=[], params=SamplingParams(temperature=0.0), seed=0)
        self._slots = [Slot.of(idle, ()) for _ in range(slots)]

    def prepare(self, group: GroupPlan) -> None:
        """Before the step of its own group: new requests take their slots."""
        for admit in group.new_requests:
            self.admit(admit)

    def admit(self, admit: NewRequest) -> None:
        """A request takes its slot."""
        self._slots[admit.slot] = slot = Slot.of(admit, self.eos_token_ids)
        params = admit.params
        temperature = params.temperature if params.temperature >= GREEDY_BELOW else 0.0
        self.table.set(admit.slot, temperature, params.top_k, params.top_p, params.min_p, admit.seed)
        always = slot.history is not None or slot.rules is not None or len(slot.bias_ids)
        plain_from = NEVER if always else params.min_tokens if len(slot.ends) else 0
        self._plain_from[admit.slot] = plain_from
        asks = params.logprobs is not None or params.prompt_logprobs is not None
        self.has_grammar[admit.slot] = ruled = self.grammars.admit(admit)
        self.chosen_from[admit.slot] = NEVER if asks else plain_from
        follows = slot.history is not None or slot.rules is not None or ruled
        for slots, member in ((self._asking, asks), (self._following, follows)):
            (slots.add if member else slots.discard)(admit.slot)

    def width(self, rows: SampledRows) -> int:
        """Columns of the values that an attention block with these rows shares; the same on each of its ranks."""
        if not self._asking:
            return _LOGPROB
        asked = [n for slot, position in rows.pairs() if (n := self._alternatives(slot, position)) is not None]
        return sampled_columns(min(max(asked), self.vocab_size) if asked else None)

    def sample(self, logits: Tensor, rows: SampledRows, width: int) -> Tensor:
        """Values [m, width] for logits [m, V], one row for each of `rows`; one that is only scored has its target as
        id."""
        takes_whole = len(rows) > 0 and width == _LOGPROB and _for_kernel(logits)
        if self.kernel is not None and takes_whole and self._plain(rows).all():
            values = torch.empty((len(rows), width), dtype=torch.float64)
            self._run_kernel(self.kernel, logits, rows, values)
            return values
        values = torch.full((len(rows), width), -1.0, dtype=torch.float64, device=logits.device)
        if not len(rows):
            return values
        raw = logits if logits.dtype == torch.float32 else logits.to(torch.promote_types(logits.dtype, torch.float32))
        rest = self._sample_plain(raw, rows, values)
        if len(rest) == len(rows):
            self._sample_any(raw, rows, values)
        elif len(rest):
            index = torch.from_numpy(rest).to(raw.device)
            part = values[index]
            self._sample_any(raw[index], rows.take(rest), part)
            values.index_copy_(0, index, part)
        pairs = rows.pairs() if width > _LOGPROB else []
        asked = [row for row, pair in enumerate(pairs) if self._alternatives(*pair) is not None]
        if asked:
            index = torch.tensor(asked, device=logits.device)
            chosen = values[index, _ID].long()
            values[:, _LOGPROB:].index_copy_(0, index, logprobs_of(raw[index], chosen, (width - _TOP) // 2))
            named = {row: ids for row in asked if (ids := self._named(*pairs[row]))}
            if named:
                put_named(values[:, _TOP:], raw, named)
        return values

    def takes_largest(self, rows: SampledRows, width: int) -> bool:
        """Whether `largest` of the logits is all that these rows want."""
        greedy = width == _LOGPROB and rows.targets is None and not self.table.temperature[rows.slots].any()
        return bool(greedy and self._plain(rows).all() and not self.grammars.has(rows))

    def _plain(self, rows: SampledRows) -> NDArray[np.bool_]:
        return np.asarray(rows.positions >= self._plain_from[rows.slots])

    def _sample_plain(self, raw: Tensor, rows: SampledRows, values: Tensor) -> Column:
        """Samples the rows that the kernel can; the others."""
        if self.kernel is None or raw.dtype != torch.float32:
            return np.arange(len(rows))
        plain = self._plain(rows)
        if plain.all():
            self._run_kernel(self.kernel, raw if raw.stride(1) == 1 else raw.contiguous(), rows, values)
        elif plain.any():
            own = plain.nonzero()[0]
            index = torch.from_numpy(own)
            part = torch.empty(len(index), 2, dtype=torch.float64)
            self._run_kernel(self.kernel, raw[index], rows.take(own), part)
            values[index, :_LOGPROB] = part
        return (~plain).nonzero()[0]

    def _run_kernel(self, kernel: SamplingKernel, logits: Tensor, rows: SampledRows, values: Tensor) -> None:
        """Of rows that nothing but a grammar changes."""
        masks = self.grammars.masks(rows)
        kernel(logits, self.table, rows.slots, rows.positions, values, masks)
        _put_failed(values, masks)

    def _sample_any(self, raw: Tensor, rows: SampledRows, values: Tensor) -> None:
        masks = self.grammars.masks(rows)
        ids, fine = self._ids(raw, rows, masks)
        values[:, _ID], values[:, _OK] = ids.masked_fill(~fine, 0), fine
        _put_failed(values, masks)

    def remember(self, values: Tensor, rows: SampledRows, own: Container[int] | None = None) -> GroupResult:
        """Stores what the whole attention-dp group sampled, and returns the results to report; rows that score a
        request's prompt are part of its one record. `own`: numbers of the rows that this rank sampled; None: all."""
        host = values.cpu().numpy()
        ids = host[:, _ID].astype(WORD)
        fine = host[:, _OK] > 0
        extras: list[Sampled] = []
        if self._asking or not fine.all():
            extras = [self._record(host[row].tolist(), slot) for row, slot in self._with_extras(rows, fine)]
        if self._following:
            self._follow(rows, ids, fine, range(len(rows)) if own is None else own)
        runs = self._of_runs(host, rows) if len(rows) > rows.decodes else []
        return GroupResult(ids[: rows.decodes].tobytes(), extras, runs)

    def _with_extras(self, rows: SampledRows, fine: NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Row and slot of the decode rows that have more than an id."""
        pairs = enumerate(zip(rows.slots[: rows.decodes].tolist(), fine.tolist(), strict=False))
        return [(row, slot) for row, (slot, good) in pairs if not good or slot in self._asking]

    def _follow(self, rows: SampledRows, ids: Column, fine: NDArray[np.bool_], own: Container[int]) -> None:
        given = zip(rows.pairs(), ids.tolist(), fine.tolist(), strict=True)
        for row, ((slot, position), token, good) in enumerate(given):
            if slot in self._following and position >= 0 and good:
                self._slots[slot].add(token)
                if slot in self.grammars.slots:
                    self.grammars.feed(slot, token, row in own)

    def _of_runs(self, host: NDArray[np.float64], rows: SampledRows) -> list[Sampled]:
        records: list[Sampled] = []
        scored: list[TokenLogprob | None] = []
        pairs = rows.pairs()
        for row, (slot, position) in enumerate(pairs[rows.decodes :], rows.decodes):
            values = host[row].tolist()
            if position >= 0:
                records.append(self._record(values, slot, scored))
            else:
                scored.append(self._logprob(values, slot, position) if values[_OK] > 0 else None)
                if row + 1 < len(pairs) and pairs[row + 1][0] == slot:
                    continue
                records.append(_record_of(slot, -1, scored))
            scored = []
        return records

    def _alternatives(self, slot: int, position: int) -> int | None:
        """How many beside the token itself; None: no log-probabilities."""
        params = self._slots[slot].params
        if position < 0 or params.logprobs is None:
            return params.logprobs if position >= 0 else params.prompt_logprobs
        return len(params.logprob_token_ids) or params.logprobs

    def _named(self, slot: int, position: int) -> tuple[int, ...]:
        """Tokens that are reported instead of the likeliest."""
        return self._slots[slot].params.logprob_token_ids if position >= 0 else ()

    def _ids(self, raw: Tensor, rows: SampledRows, masks: Masks) -> tuple[Tensor, Tensor]:
        """The id of each row, and whether its logits are finite."""
        if rows.targets is None:
            return self._drawn(raw, rows, masks)
        drawn = (rows.positions >= 0).nonzero()[0]
        ids = torch.from_numpy(rows.targets).to(raw.device, copy=True)
        fine = torch.isfinite(raw.amin(-1)) & torch.isfinite(raw.amax(-1))
        if len(drawn):
            index = torch.from_numpy(drawn).to(raw.device)
            own = {place: masks[row] for place, row in enumerate(drawn.tolist()) if row in masks}
            chosen, good = self._drawn(raw[index], rows.take(drawn), own)
            ids.index_copy_(0, index, chosen)
            fine.index_copy_(0, index, good)
        return ids, fine

    def _drawn(self, raw: Tensor, rows: SampledRows, masks: Masks) -> tuple[Tensor, Tensor]:
        slots, output_pos = [self._slots[slot] for slot in rows.slots.tolist()], rows.positions.tolist()
        adjusted = adjust(raw, slots, output_pos)
        if masks:
            adjusted = adjusted.clone() if adjusted is raw else adjusted
            for row, mask in masks.items():
                if mask is not None:
                    allowed = torch.from_numpy(as_bools(mask, self.vocab_size)).to(raw.device)
                    adjusted[row].masked_fill_(~allowed, -torch.inf)
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

    def _record(self, row: Sequence[float], slot: int, scored: Sequence[TokenLogprob | None] = ()) -> Sampled:
        """Of a row that was drawn."""
        token = int(row[_ID])
        if row[_OK] <= 0:
            return Sampled(slot=slot, token_id=token, error=GRAMMAR_FAILED if row[_OK] < 0 else NOT_FINITE)
        record = _record_of(slot, token, scored)
        if self._alternatives(slot, 0) is None:
            return record
        own = self._logprob(row, slot, 0)
        return msgspec.structs.replace(record, logprob=own.logprob, rank_of_token=own.rank, top=own.top)

    def _logprob(self, row: Sequence[float], slot: int, position: int) -> TokenLogprob:
        asked, most = self._alternatives(slot, position) or 0, (len(row) - _TOP) // 2
        ids, logprobs = row[_TOP : _TOP + most], row[_TOP + most :]
        top = [(int(i), value) for i, value in zip(ids[:asked], logprobs[:asked], strict=True)]
        return TokenLogprob(int(row[_ID]), row[_LOGPROB], int(row[_RANK]), top)


def _for_kernel(logits: Tensor) -> bool:
    return logits.dtype == torch.float32 and logits.stride(1) == 1


def _record_of(slot: int, token: int, scored: Sequence[TokenLogprob | None]) -> Sampled:
    """One bad row spoils the request's record."""
    prompt = [one for one in scored if one is not None]
    if len(prompt) < len(scored):
        return Sampled(slot=slot, token_id=token, error=NOT_FINITE)
    return Sampled(slot=slot, token_id=token, prompt=prompt)


def _put_failed(values: Tensor, masks: Masks) -> None:
    """Rows whose grammar failed."""
    failed = [row for row, mask in masks.items() if mask is None]
    if failed:
        values[failed, _ID], values[failed, _OK] = 0.0, -1.0
