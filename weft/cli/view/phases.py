"""Shows the start-up phases of all ranks: each of them, or only those of a start that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from weft.cli.view.say import say
from weft.runtime.ipc.phases import EAGER, ORDER, Phase, PhaseChange

if TYPE_CHECKING:
    from rich.table import Table


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


class BriefView(PlainView):
    """Nothing while all goes well, but for slower steps, once; where the start fails, what each rank that is not ready
    has done so far."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._so_far: dict[int, list[PhaseChange]] = {}
        self._slower = False

    def show(self, change: PhaseChange) -> None:
        """A rank entered a phase."""
        if change.phase is Phase.SPAWN:
            self._so_far[change.rank] = []
        self._so_far.setdefault(change.rank, []).append(change)
        if change.phase is Phase.READY:
            del self._so_far[change.rank]
        _, eager, why = change.detail.partition(EAGER)
        if eager and not self._slower:
            self._slower = True
            say(f"note: steps run {EAGER}, which is slower{why}", self._out, ignore_closed=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if isinstance(error, Exception):
            changes = [change for changes in self._so_far.values() for change in changes]
            for change in sorted(changes, key=lambda change: change.at_s):
                say(str(change), self._out, ignore_closed=True)


class LiveView(PlainView):
    """A row per rank: what it is doing, for how long since the start, and details."""

    def __init__(self, out: TextIO, where: Sequence[str]) -> None:
        # Imported here: slow, and needed only for terminals.
        from rich.console import Console
        from rich.live import Live

        super().__init__(out)
        self._rows: dict[int, PhaseChange] = {}
        self._where = where
        self._live = Live(console=Console(file=out), auto_refresh=False)
        self._live.start()

    def show(self, change: PhaseChange) -> None:
        """A rank entered a phase."""
        self._rows[change.rank] = change
        self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Leaves the last table standing."""
        self._live.stop()

    def _table(self) -> Table:
        from rich.table import Table

        table = Table("rank", "phase", "since", "", box=None, pad_edge=False)
        for rank, where in enumerate(self._where):
            change = self._rows.get(rank)
            if change is None:
                table.add_row(where, "")
                continue
            number = f"{ORDER.index(change.phase) + 1}/{len(ORDER)}"
            style = "green" if change.phase is Phase.READY else "yellow"
            table.add_row(where, f"[{style}]{number} {change.phase}[/]", f"{change.at_s:.1f} s", change.detail)
        return table


def phase_view(where: Sequence[str], out: TextIO | None = None, *, every: bool = True) -> PlainView:
    """The view that suits `out` (stdout): live where it is a terminal. `every`: phases of a good start too."""
    out = out or sys.stdout
    if not every:
        return BriefView(out)
    return LiveView(out, where) if out.isatty() else PlainView(out)
