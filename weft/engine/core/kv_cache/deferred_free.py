"""Blocks and slots that steps in flight still refer to: they are freed when these steps have retired."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PendingFree:
    """Blocks, and a slot unless -1, that are freed when step `until` has retired."""

    until: int
    blocks: list[int]
    slot: int = -1


class DeferredFree:
    """Frees blocks and slots once the steps that refer to them have retired."""

    def __init__(self, free: Callable[[PendingFree], None]) -> None:
        self.retired = -1
        """Index of the last step that has retired."""
        self._free = free
        self._waiting: deque[PendingFree] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_blocks(self) -> int:
        """Blocks that wait; of those that requests share, some stay in use."""
        return sum(len(pending.blocks) for pending in self._waiting)

    def free(self, pending: PendingFree) -> None:
        """Frees `pending`, now or when its step retires."""
        if pending.until > self.retired:
            self._waiting.append(pending)
        else:
            self._free(pending)

    def retire(self, index: int) -> None:
        """Frees everything that waited for steps up to `index`."""
        self.retired = index
        while self._waiting and self._waiting[0].until <= index:
            self._free(self._waiting.popleft())
