"""Gives ranks the grammars to compile, and lets a request wait for a slot once every rank of its group has done so."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from weft.engine.core.executor import CompilesGrammars, Executor
from weft.engine.core.scheduler.scheduler import Scheduler

SOON_S, LATE_S = 0.0005, 0.02
"""Ranks are asked how far they are after the first, then twice as late each time: their steps stop for it."""


class GrammarCompiles:
    """`executor` may be one that compiles nothing ahead: its requests do not wait."""

    def __init__(self, executor: Executor, schedulers: Sequence[Scheduler]) -> None:
        self._executor = executor if isinstance(executor, CompilesGrammars) else None
        self._schedulers = schedulers
        self._asked_s, self._pause_s = 0.0, SOON_S

    @property
    def pending(self) -> bool:
        """Whether requests wait for grammars, or ranks have still to answer."""
        waiting = any(scheduler.compiling for scheduler in self._schedulers)
        return waiting or (self._executor is not None and self._executor.compiles)

    def advance(self) -> None:
        """Before a step: gives ranks new grammars, and lets requests go whose grammars are compiled."""
        if not self.pending:
            return
        if self._executor is None or not self._executor.compiles:
            self._send([scheduler.compiling.next_texts() for scheduler in self._schedulers])
        for group, scheduler in enumerate(self._schedulers):
            scheduler.compiling.let(sys.maxsize if self._executor is None else self._executor.compiled(group))

    def _send(self, texts: list[list[str]]) -> None:
        """Of new grammars; without any, asks for the others when their time has come."""
        now, new = time.monotonic(), any(texts)
        if self._executor is not None and (new or now - self._asked_s >= self._pause_s):
            self._executor.compile_grammars(texts)
            self._asked_s, self._pause_s = now, SOON_S if new else min(2 * self._pause_s, LATE_S)

    def wait(self) -> None:
        """Where nothing else can run: a little, or until ranks have answered."""
        if self._executor is not None:
            self._executor.await_compiled(self._pause_s)
