"""Steps planned one by one beside several by one plan, in turns: what ranks wait for the engine, and for each other.

    python benchmarks/several_steps.py [--model DIR] [--tp 2] [--quantization Q] [--tokens 129] [--rounds 12]
                                       [--save FILE.json]

One engine, whose ranks are given each step by itself in one burst of three; in the others they run several by one
plan, and answer each of them, as where tokens are streamed, or all together. From the step on in which every stream has
a token: milliseconds of a step, those between steps (first rank), and of each rank those in collectives while its core
was not lent, medians; of neighbouring bursts how many times as fast they are as the first, median and quartiles. Where
steps are planned ahead, ranks are between two of them only as long as a frame takes.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import at_least, run_command, whole
from benchmarks.offline_engine import Watched, options, tell, watched
from benchmarks.peers.probe import Probe
from benchmarks.timing import quantile
from weft.checkpoint.hub.embedded import cache_dir
from weft.ipc.status import RankWork
from weft.settings import EngineConfig
from weft.step.plan import MOST_FURTHER
from weft.supervisor.executor import ProcessExecutor

STREAMS = {"1 stream": 1, "8 streams": 8, "32 streams": 32}
PROMPT = 8
ALONE, EACH, TOGETHER = WAYS = ("one by one", "answered one by one", "several")


class Burst(NamedTuple):
    """Milliseconds of a step: all of it, between two, and of each rank in collectives, its core not lent."""

    whole: float
    between: float
    waits: tuple[float, ...]


def works(engine: Watched) -> list[RankWork]:
    """Of every rank, since it was ready."""
    executor = engine.engine.executor
    assert isinstance(executor, ProcessExecutor)
    return [executor.watch.status.work(worker.rank) for worker in executor.workers]


def run(engine: Watched, number: int, streams: int, tokens: int, way: str) -> Burst:
    """One burst, whose prompts no other one has."""
    executor, streamed = engine.engine.executor, way != TOGETHER
    assert isinstance(executor, ProcessExecutor)
    executor.most_further = 0 if way == ALONE else MOST_FURTHER
    names = [f"{number} {stream}" for stream in range(streams)]
    for stream, name in enumerate(names):
        engine.add(name, engine.prompt(number * streams + stream, PROMPT), tokens, streamed=streamed)
    while not all(engine.came[name] for name in names):
        engine.step()
    before, steps, began = works(engine), engine.engine.stats().steps, time.perf_counter()
    engine.finish()
    seconds, steps = time.perf_counter() - began, engine.engine.stats().steps - steps
    busy, *waits = (1e3 / steps * each for each in _spent(before, works(engine)))
    return Burst(1e3 / steps * seconds, 1e3 / steps * seconds - busy, tuple(waits))


def _spent(before: list[RankWork], now: list[RankWork]) -> list[float]:
    """Seconds: of the first rank in steps, then of each in collectives, its core not lent."""
    waits = [b.collective_s - b.lent_s - a.collective_s + a.lent_s for a, b in zip(before, now, strict=True)]
    return [now[0].busy_s - before[0].busy_s, *waits]


def summary(found: dict[str, list[Burst]]) -> dict[str, object]:
    """Of one case."""
    told: dict[str, object] = {}
    for name, way in (("ratio", TOGETHER), ("ratio_each", EACH)):
        ratios = [one.whole / other.whole for one, other in zip(found[ALONE], found[way], strict=True)]
        told[name] = round(statistics.median(ratios), 3)
        told |= {f"{name}_q{n}": round(quantile(ratios, n / 4), 3) for n in (1, 3)}
    for way, bursts in found.items():
        whole_ms = statistics.median(burst.whole for burst in bursts)
        between_ms = statistics.median(burst.between for burst in bursts)
        waits = [round(statistics.median(column), 3) for column in zip(*(burst.waits for burst in bursts), strict=True)]
        told[way] = {"step_ms": round(whole_ms, 3), "between_ms": round(between_ms, 3), "waits_ms": waits}
    return told


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--tokens", type=at_least(8), default=129)
    parser.add_argument("--rounds", type=whole, default=12)
    arguments = parser.parse_args()
    settings = EngineConfig(
        max_model_len=2048,
        kv_cache_memory=256 << 20,
        enable_prefix_caching=False,
        quantization=arguments.quantization,
    )
    with Probe(cache_dir() / "peers") as probe, watched(arguments.model, arguments.tp, settings) as engine:
        looks, cases, number = [probe.ask_behind()], dict[str, object](), 0
        for case, streams in STREAMS.items():
            found: dict[str, list[Burst]] = {way: [] for way in WAYS}
            for turn in range(arguments.rounds + 1):
                for way in WAYS[:: 1 if turn % 2 else -1]:
                    number += 1
                    burst = run(engine, number, streams, arguments.tokens, way)
                    if turn:  # the first is not counted
                        found[way].append(burst)
            cases[case] = summary(found)
            looks.append(probe.ask_behind())
        tell(arguments, cases, looks)


if __name__ == "__main__":
    run_command(main)
