"""Rules: which tokens a request may not choose: outside its list, or the last of a run not to be written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.base.step.plan import NewRequest


class Rules:
    """Of one running request. Keeps as many of its tokens as its longest bad run needs."""

    def __init__(self, allowed: Sequence[int] | None, bad: Sequence[Sequence[int]], output_ids: Sequence[int]) -> None:
        """Tokens given after others; runs of one token are never chosen."""
        self._allowed = None if allowed is None else torch.tensor(sorted(set(allowed)))
        self._never = torch.tensor(sorted({run[0] for run in bad if len(run) == 1}), dtype=torch.int64)
        self._runs = [(tuple(run[:-1]), run[-1]) for run in bad if len(run) > 1]
        self._longest = max((len(before) for before, _ in self._runs), default=0)
        self._last = tuple(output_ids)[-self._longest :] if self._longest else ()

    @classmethod
    def of(cls, admit: NewRequest) -> Rules | None:
        """None where nothing is ruled out."""
        params = admit.params
        if params.allowed_token_ids is None and not params.bad_token_ids:
            return None
        return cls(params.allowed_token_ids, params.bad_token_ids, admit.output_ids)

    def add(self, token: int) -> None:
        """One more generated `token`."""
        if self._longest:
            self._last = (*self._last, token)[-self._longest :]

    def apply(self, row: Tensor) -> None:
        """Logits [V] of the next token, changed in place: -inf for what is ruled out."""
        if self._allowed is not None:
            allowed = self._allowed.to(row.device)
            kept = row[allowed]
            row.fill_(-torch.inf)
            row[allowed] = kept
        now = [token for before, token in self._runs if self._last[-len(before) :] == before]
        for tokens in (self._never, torch.tensor(now, dtype=torch.int64)):
            if len(tokens):
                row[tokens.to(row.device)] = -torch.inf
