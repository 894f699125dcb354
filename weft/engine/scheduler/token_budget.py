"""What is left of a step's budget of rows while prompts are added to it."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.limits import Limits
from weft.engine.scheduler.prefill_throttle import PrefillThrottle
from weft.step.plan import FEWEST_SCORED


@dataclass(slots=True)
class TokenBudget:
    """What is left: `rows`, `logit_rows` for scored prompts, and `late_rows` for prompts that came after the first
    running request began to decode (None: no limit)."""

    rows: int
    logit_rows: int
    late_rows: int | None

    @classmethod
    def of(cls, limits: Limits, decodes: int, throttle: PrefillThrottle) -> TokenBudget:
        """The budget of a step that has `decodes` decode rows already."""
        logit_rows = max(FEWEST_SCORED, limits.max_num_seqs - decodes)
        return cls(limits.max_num_batched_tokens - decodes, logit_rows, throttle.prompt_rows())

    @property
    def is_left(self) -> bool:
        """Whether any prompt could have a row."""
        return bool(self.rows and self.logit_rows)

    def most(self, scores: bool, late: bool) -> int:
        """Rows that a prompt may have; `scores`: each needs a row of logits."""
        found = min(self.rows, self.logit_rows) if scores else self.rows if self.logit_rows else 0
        return found if self.late_rows is None or not late else min(found, self.late_rows)

    def take(self, count: int, scored: int) -> None:
        """Subtracts a prompt's rows and its rows of logits."""
        self.rows, self.logit_rows = self.rows - count, self.logit_rows - scored
        if self.late_rows is not None:
            self.late_rows = max(0, self.late_rows - count)
