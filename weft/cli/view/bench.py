"""Progress of a benchmark on stderr: a bar on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from weft.tools.bench.outcome import Outcome
from weft.tools.bench.session import Watcher
from weft.tools.bench.settings import OfferedLoad
from weft.tools.bench.stats import Summary


class PlainBenchView(Watcher):
    """A line when a server starts, and one when a run has ended."""

    def __init__(self) -> None:
        self._starting = ""

    def starting(self, name: str, line: str) -> None:
        """Said once."""
        if self._starting != name:
            self._starting = name
            self._say(f"starting {name}")

    def measured(self, name: str, summary: Summary) -> None:
        """The run in one line."""
        self._starting = ""
        times = (summary.ttft.p50, summary.tpot.p50)
        ttft, tpot = (f"{value:.1f} ms" if value is not None else "-" for value in times)
        failed = f", {summary.failed} failed" if summary.failed else ""
        rate = f"{summary.output_rate:.1f} output tokens/s"
        self._say(f"{name}, {summary.load}: {rate}, TTFT p50 {ttft}, TPOT p50 {tpot}{failed}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is open."""


class LiveBenchView(PlainBenchView):
    """A bar for the run that is under way."""

    def __init__(self) -> None:
        super().__init__()
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"), TimeElapsedColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None, said="", visible=False)
        self._failed = 0

    def starting(self, name: str, line: str) -> None:
        """What the server says, as it starts."""
        self._progress.update(self._task, description=f"starting {name}", total=None, said=line[:60], visible=True)

    def began(self, name: str, load: OfferedLoad, repeat: int, requests: int) -> None:
        """A new bar."""
        self._failed = 0
        again = f", repetition {repeat + 1}" if repeat else ""
        self._progress.reset(self._task, description=f"{name}, {load}{again}", total=requests, said="", visible=True)

    def ended(self, outcome: Outcome) -> None:
        """One more."""
        self._failed += not outcome.ok
        said = f"[red]{self._failed} failed[/]" if self._failed else ""
        self._progress.update(self._task, advance=1, said=said)

    def _say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()


def bench_view() -> PlainBenchView:
    """The view that suits stderr."""
    return LiveBenchView() if sys.stderr.isatty() else PlainBenchView()
