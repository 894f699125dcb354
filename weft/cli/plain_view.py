"""The start-up phases of all ranks as plain lines: for whatever is not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from weft.cli.say import say
from weft.launch.phases import PhaseChange


class PlainView:
    """One line for every change."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, change: PhaseChange) -> None:
        """A rank entered a phase."""
        say(str(change), self._out)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
