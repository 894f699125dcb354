"""What is left of a step's budget of rows while prompts are added to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from weft.base.step.plan import FEWEST_SCORED
from weft.engine.core.limits import Limits
from weft.engine.core.scheduler.prefill_throttle import FEWEST, PrefillThrottle


@dataclass(slots=True)
class TokenBudget:
    """What is left: `rows`, `logit_rows` for scored prompts, `late_rows` for prompts that came after the first running
    request began to decode (None: no limit), and `keys`: pairs of a row and a key, where chunks take as long as each
    other (None: as many rows). A row's products count as `keys_per_row` pairs."""

    rows: int
    logit_rows: int
    late_rows: int | None
    keys_per_row: float = 0.0
    keys: float | None = None

    @classmethod
    def of(cls, limits: Limits, decodes: int, throttle: PrefillThrottle) -> TokenBudget:
        """The budget of a step that has `decodes` decode rows already."""
        logit_rows = max(FEWEST_SCORED, limits.max_num_seqs - decodes)
        rows, per_row = limits.max_num_batched_tokens - decodes, limits.keys_per_row
        keys = rows * (per_row + rows / 2) if per_row else None
        return cls(rows, logit_rows, throttle.prompt_rows(), per_row, keys)

    @property
    def is_left(self) -> bool:
        """Whether any prompt could have a row."""
        return bool(self.rows and self.logit_rows)

    def most(self, scores: bool, late: bool, before: int) -> int:
        """Rows that a prompt may have, `before` of which are computed or planned; `scores`: each needs a row of
        logits."""
        found = min(self.rows, self.logit_rows) if scores else self.rows if self.logit_rows else 0
        if self.keys is not None:
            cost = self.keys_per_row + before  # rows r that solve r * (cost + r / 2) = keys
            even = int(sqrt(cost * cost + 2 * max(self.keys, 0.0)) - cost)
            found = min(found, max(even, FEWEST if self.keys > 0 else 0))
        return found if self.late_rows is None or not late else min(found, self.late_rows)

    def take(self, count: int, scored: int, before: int) -> None:
        """Subtracts a prompt's rows and its rows of logits."""
        self.rows, self.logit_rows = self.rows - count, self.logit_rows - scored
        if self.keys is not None:
            self.keys -= count * (self.keys_per_row + before + count / 2)
        if self.late_rows is not None:
            self.late_rows = max(0, self.late_rows - count)
