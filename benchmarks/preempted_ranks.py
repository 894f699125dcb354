"""Who has the cores of ranks while one stream is decoded, and for how long ranks wait for them.

    python benchmarks/preempted_ranks.py [--model MODEL] [--tokens 256] [--rounds 8] [--save FILE.json]

One rank with a thread for each core, and as many ranks of a thread each, in turns, each started once. Of every thread
that computes, percent of a burst's time in which it was ready to run and had no core (the second number of
/proc/PID/task/TID/schedstat, documented in Linux's sched-stats), medians over rounds; and milliseconds in a second of
bursts in which others ran: other threads of the ranks, the engine, and the system's by name. `lost`: percent of a step
that this costs at most: one rank's other threads take over what a thread has not begun, so that each loses its part;
other ranks wait, so that all lose the sum.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import at_least, run_command, whole
from benchmarks.offline_engine import Watched, options, tell, watched
from weft.settings import EngineConfig
from weft.supervisor.executor import ProcessExecutor

PROMPT = 128
COMPUTES = 0.3
"""Of a burst's time, from which on a thread of a rank is one that computes."""
NOTICED_MS = 1.0


class Spent(NamedTuple):
    """Of a thread, since it began: nanoseconds with a core, and ready to run without one."""

    run: int
    waited: int
    name: str


def threads() -> dict[tuple[int, int], Spent]:
    """Every thread of the machine, by process and number; those that end meanwhile are left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            run, waited, _ = (path / "schedstat").read_text().split()
            name = (path / "comm").read_text().strip()
        except OSError:
            continue
        found[int(path.parts[2]), int(path.name)] = Spent(int(run), int(waited), name)
    return found


class Ranks:
    """What bursts of one engine cost its threads, and who else ran."""

    def __init__(self, engine: Watched) -> None:
        executor = engine.engine.executor
        assert isinstance(executor, ProcessExecutor)
        self._engine, self._pids = engine, [worker.pid for worker in executor.workers]
        self._waits: dict[tuple[int, int], list[float]] = defaultdict(list)
        self._others: dict[str, float] = defaultdict(float)
        self._seconds = 0.0

    def burst(self, number: int, tokens: int, *, counts: bool) -> None:
        """One stream, whole."""
        before, began = threads(), time.perf_counter()
        self._engine.add(str(number), self._engine.prompt(number, PROMPT), tokens, streamed=False)
        self._engine.finish()
        seconds, now = time.perf_counter() - began, threads()
        if counts:
            self._count(before, now, seconds)

    def _count(self, before: dict[tuple[int, int], Spent], now: dict[tuple[int, int], Spent], seconds: float) -> None:
        self._seconds += seconds
        for thread, spent in now.items():
            then = before.get(thread, Spent(0, 0, ""))
            run_s, pid = (spent.run - then.run) / 1e9, thread[0]
            if pid in self._pids and run_s > COMPUTES * seconds:
                self._waits[thread].append(100 * (spent.waited - then.waited) / 1e9 / seconds)
            else:
                ours = "the engine" if pid == os.getpid() else "ranks' other threads"
                name = ours if pid in (os.getpid(), *self._pids) else spent.name
                self._others[name] += 1e3 * run_s

    def found(self) -> dict[str, Any]:
        """Percents, and milliseconds in a second, most first."""
        waits = [round(statistics.median(each), 2) for _, each in sorted(self._waits.items())]
        ran = {name: round(ms / self._seconds, 2) for name, ms in self._others.items()}
        noticed = {name: ms for name, ms in sorted(ran.items(), key=lambda each: -each[1]) if ms >= NOTICED_MS}
        lost = statistics.mean(waits) if len(self._pids) == 1 else sum(waits)
        return {"waited_percent": waits, "lost_percent": round(lost, 2), "others_ms_per_s": noticed}


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--tokens", type=at_least(8), default=256)
    parser.add_argument("--rounds", type=whole, default=8)
    arguments = parser.parse_args()
    settings = EngineConfig(max_model_len=2048, kv_cache_memory=256 << 20, enable_prefix_caching=False)
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        cases = {
            f"{tp} x {cores // tp}": Ranks(stack.enter_context(watched(arguments.model, tp, settings)))
            for tp in (1, cores)
        }
        for turn in range(arguments.rounds + 1):
            for ranks in list(cases.values())[:: 1 if turn % 2 else -1]:
                ranks.burst(turn, arguments.tokens, counts=turn > 0)
        tell(arguments, {name: ranks.found() for name, ranks in cases.items()})


if __name__ == "__main__":
    run_command(main)
