"""The start-up phases of all ranks on a terminal: a table that changes in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from weft.cli.plain_view import PlainView
from weft.launch.phases import ORDER, Phase, PhaseChange


class LiveView(PlainView):
    """A row per rank: what it is doing, for how long since the start, and details."""

    def __init__(self, out: TextIO, where: Sequence[str]) -> None:
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
