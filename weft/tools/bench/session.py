"""A benchmark from its first run to its last: a server that others started, or our own, one layout or several in turn.

Ctrl-C ends it between two events of the loop; a server of our own is ended with it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from weft.base.errors import UnavailableError
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_yaml
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.tools.bench.client import BenchTarget
from weft.tools.bench.compare import interleaved
from weft.tools.bench.drive import BenchRun, run_load
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.served import Served, ServeFailed
from weft.tools.bench.settings import OfferedLoad
from weft.tools.bench.stats import Summary, summarize
from weft.tools.bench.workload import Workload

Measurement = tuple[BenchRun, Summary]


class Watcher:
    """Hears how far a benchmark is; every method may do nothing."""

    def starting(self, name: str, line: str) -> None:
        """A server of our own starts; `line`: what it said last."""

    def began(self, name: str, load: OfferedLoad, repeat: int, requests: int) -> None:
        """A run begins."""

    def ended(self, outcome: Outcome) -> None:
        """A request has ended."""

    def measured(self, name: str, summary: Summary) -> None:
        """A run has ended."""


@dataclass(frozen=True, slots=True)
class Host:
    """How to start a server of our own: `program`, the model's name there, engine options as words."""

    program: Sequence[str]
    model: str
    words: Sequence[str]


def measure(
    target: BenchTarget, workload: Workload, watcher: Watcher, name: str, repeats: Sequence[int]
) -> list[Measurement]:
    """All loads, for each of the repetitions."""
    return [
        _one(target, workload, load, repeat, watcher, name) for repeat in repeats for load in workload.settings.loads
    ]


def _one(
    target: BenchTarget, workload: Workload, load: OfferedLoad, repeat: int, watcher: Watcher, name: str
) -> Measurement:
    lines = None if workload.lines is None else len(workload.lines)
    watcher.began(name, load, repeat, workload.settings.count(load, lines))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(run_load(target, workload, load, repeat, watcher.ended))
    summary = summarize(run)
    watcher.measured(name, summary)
    return run, summary


def measure_served(
    host: Host,
    path: str,
    layout: Layout,
    workload: Workload,
    watcher: Watcher,
    name: str,
    repeats: Sequence[int],
    ready: Callable[[str], None] = lambda url: None,
) -> list[Measurement]:
    """As `measure`, on a server for the checkpoint at `path` that lives as long as this takes. `ready` is called with
    its address before the first run. ServeFailed: it ended without being stopped."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        file = Path(folder) / "layout.yaml"
        file.write_text(to_yaml(layout))
        words = [
            "serve",
            path,
            "--layout",
            str(file),
            "--port",
            "0",
            "--served-model-name",
            host.model,
        ]
        with Served(host.program, [*words, *host.words], lambda line: watcher.starting(name, line)) as served:
            target = BenchTarget(served.wait_ready(), host.model)
            try:
                ready(target.url)
                return measure(target, workload, watcher, name, repeats)
            except UnavailableError:
                if not served.alive:
                    raise served.failure() from None
                raise


def compare_layouts(
    host: Host, plans: dict[str, LaunchPlan], workload: Workload, watcher: Watcher
) -> dict[str, list[Measurement]]:
    """Each layout in turn, `repeat` times there and back; one server at a time, so that each has the whole machine."""
    names = list(plans)
    found: dict[str, list[Measurement]] = {name: [] for name in names}
    for repeat, place in interleaved(len(names), workload.settings.repeat):
        name = names[place]
        plan = plans[name]
        try:
            found[name] += measure_served(host, plan.checkpoint.path, plan.layout, workload, watcher, name, [repeat])
        except ServeFailed as error:
            raise ServeFailed(f"layout {name}: {error}", error.exit_code) from None
    return found


def in_repetitions(run: Callable[[Sequence[int]], list[Measurement]], repeat: int) -> list[Measurement]:
    """All repetitions on one server, ordered by load."""
    loads: dict[OfferedLoad, int] = {}
    found = run(range(repeat))
    for _, summary in found:
        loads.setdefault(summary.load, len(loads))
    return sorted(found, key=lambda pair: (loads[pair[1].load], pair[1].repeat))
