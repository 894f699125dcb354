"""Room: what is left of a step while it is filled. Pure numbers; knows no request."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.limits import Limits
from weft.engine.scheduler.prefill_throttle import PrefillThrottle
from weft.step.plan import FEWEST_SCORED


@dataclass(slots=True)
class TokenBudget:
    """What is left of a step: rows, rows of logits for scored prompts, and (None: no limit) rows of prompts that came
    when streams flowed already."""

    budget: int
    heads: int
    beside: int | None

    @classmethod
    def of(cls, limits: Limits, streams: int, throttle: PrefillThrottle) -> TokenBudget:
        """What a step has beside its decode rows."""
        heads = max(FEWEST_SCORED, limits.max_num_seqs - streams)
        return cls(limits.max_num_batched_tokens - streams, heads, throttle.prompt_rows())

    @property
    def any(self) -> bool:
        """Whether anybody could have a row."""
        return bool(self.budget and self.heads)

    def room(self, scores: bool, late: bool) -> int:
        """Rows that a prompt may have; `scores`: each needs a row of logits."""
        found = min(self.budget, self.heads) if scores else self.budget if self.heads else 0
        return found if self.beside is None or not late else min(found, self.beside)

    def take(self, count: int, scored: int) -> None:
        """A prompt's rows are in the step."""
        self.budget, self.heads = self.budget - count, self.heads - scored
        if self.beside is not None:
            self.beside = max(0, self.beside - count)
