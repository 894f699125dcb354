"""What the engine's loop needs of ranks: a start, and an executor that can sleep."""

from __future__ import annotations

from typing import Protocol

from weft.engine.core.engine import Engine
from weft.runtime.ipc.report import RankReport


class WakeableExecutor(Protocol):
    """What the loop needs besides the engine: a sleep that notices a rank's death, and an end."""

    def wait(self, wake_fd: int) -> None:
        """Sleeps until `wake_fd` is readable. PeerError: a rank died."""

    def close(self) -> None:
        """Ends the ranks."""


class Start(Protocol):
    """Makes the engine, again after the ranks have died; runs in the engine's thread."""

    def __call__(self) -> tuple[Engine, WakeableExecutor]:
        """Waits for the ranks."""

    def cancel(self) -> None:
        """Ends the ranks at once, from any thread; a wait for them, now or later, then raises."""

    def lacking(self) -> str:
        """Which host it waits for, in words; empty: none. From any thread."""

    def reports(self) -> list[RankReport]:
        """Where every rank is, from any thread."""
