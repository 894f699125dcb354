"""From ranks on their way to an engine over them: what the engine's thread does first. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.engine import Engine
from weft.launch.executor import ProcessExecutor
from weft.launch.start import Starting


@dataclass(frozen=True, slots=True)
class EngineStart:
    """A `Start` over ranks that the main thread has spawned."""

    starting: Starting

    def __call__(self) -> tuple[Engine, ProcessExecutor]:
        """Waits until every rank is ready."""
        executor = self.starting.wait()
        plan = self.starting.plan
        return Engine(executor, plan.engine, plan.eos_token_ids, vocab_size=plan.config.vocab_size), executor

    def cancel(self) -> None:
        """Ends the ranks at once."""
        self.starting.cancel()
