"""Blocks and slots that steps in flight still refer to: they are freed when these steps have retired."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PendingFree:
    """Blocks, and a slot unless -1, that go back when step `until` has retired."""

    until: int
    blocks: list[int]
    slot: int = -1


class DeferredFree:
    """Blocks and slots that go back once the steps that refer to them have retired."""

    def __init__(self, give_back: Callable[[PendingFree], None]) -> None:
        self.retired = -1
        """Index of the last step that has."""
        self._give_back = give_back
        self._waiting: deque[PendingFree] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, held: PendingFree) -> None:
        """Gives `held` back, now or when its step retires."""
        if held.until > self.retired:
            self._waiting.append(held)
        else:
            self._give_back(held)

    def retire(self, index: int) -> None:
        """Steps up to `index` have retired."""
        self.retired = index
        while self._waiting and self._waiting[0].until <= index:
            self._give_back(self._waiting.popleft())
