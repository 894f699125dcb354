"""How many prompt rows a step may have beside requests that decode already.

A later prompt may make a step of the running requests at most `stretch` times as long as a step without it. The time of
a step and of a prompt row is measured in the steps that ran, so the same rule suits a laptop and a GPU.
"""

from __future__ import annotations

import math

FEWEST = 16
"""Prompt rows that a step may always have, so that a prompt is never starved."""
_WEIGHT = 0.2
"""Weight of the newest step in the moving averages."""
_MEASURABLE = 8
"""Fewest prompt rows from which the time of one is measured."""


class PrefillThrottle:
    """`stretch` 0: no limit. There is none either until both times are known."""

    def __init__(self, stretch: float) -> None:
        self.stretch = stretch
        self._decode_s: float | None = None
        """Average seconds of a step without prompt rows."""
        self._row_s: float | None = None
        """Average seconds that one more prompt row takes."""

    def observe(self, decodes: int, prompt_rows: int, seconds: float) -> None:
        """Records that a step of `decodes` decode rows and `prompt_rows` rows of prompts took `seconds`."""
        if not prompt_rows:
            self._decode_s = _averaged(self._decode_s, seconds)
        elif prompt_rows >= _MEASURABLE:
            without = (self._decode_s or 0.0) if decodes else 0.0
            self._row_s = _averaged(self._row_s, max(seconds - without, 0.0) / prompt_rows)

    def prompt_rows(self) -> int | None:
        """Most prompt rows of the next step beside decode rows; None: any number."""
        if not self.stretch or self._decode_s is None or not self._row_s:
            return None
        rows = (self.stretch - 1.0) * self._decode_s / self._row_s
        return None if math.isinf(rows) else max(FEWEST, int(rows))


def _averaged(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
