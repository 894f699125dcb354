"""Pace: how many prompt rows a step may carry beside streams that flow already. Pure numbers; knows no request.

A prompt that comes later may make a step of the running streams at most `stretch` times as long as one without it. What
a step and a prompt row cost is learned from the steps that ran, so the same rule suits a laptop and a GPU.
"""

from __future__ import annotations

import math

FEWEST = 16
"""Prompt rows that a step may always carry: a prompt is never starved."""
_WEIGHT = 0.2
"""Of the newest step in the moving averages."""
_TELLING = 8
"""Prompt rows from which on a step tells what one costs."""


class PrefillThrottle:
    """`stretch` 0: no limit. Until both costs are known there is none either."""

    def __init__(self, stretch: float) -> None:
        self.stretch = stretch
        self._decode_s: float | None = None
        """Of a step without prompt rows."""
        self._row_s: float | None = None
        """Of one prompt row more."""

    def observe(self, streams: int, prompt_rows: int, seconds: float) -> None:
        """A step of so many streams, each with a row, and so many rows of prompts took `seconds`."""
        if not prompt_rows:
            self._decode_s = _averaged(self._decode_s, seconds)
        elif prompt_rows >= _TELLING:
            without = (self._decode_s or 0.0) if streams else 0.0
            self._row_s = _averaged(self._row_s, max(seconds - without, 0.0) / prompt_rows)

    def prompt_rows(self) -> int | None:
        """How many prompt rows the next step may carry beside streams that flow; None: any number."""
        if not self.stretch or self._decode_s is None or not self._row_s:
            return None
        rows = (self.stretch - 1.0) * self._decode_s / self._row_s
        return None if math.isinf(rows) else max(FEWEST, int(rows))


def _averaged(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
