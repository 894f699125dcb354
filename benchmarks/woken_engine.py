"""Where an engine is woken: on the server's core, beside wherever the system likes, which may be where a rank computes.

    python benchmarks/woken_engine.py [--model DIR] [--quantization Q] [--tokens 257] [--starts 6] [--rounds 5]
                                      [--save FILE.json]

One stream, read token by token as from `weft.LLM`. What the system does is much the same all through a run, so ranks
and engine are started anew for each way, in turns. Milliseconds of a step and those between two, in which the rank is
idle; microseconds of the engine's thread for each; medians over rounds, of every start, and the median ratio of
neighbouring starts.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import at_least, even, run_command, whole
from benchmarks.offline_engine import options, tell, watched
from benchmarks.peers.probe import Probe
from benchmarks.several_steps import EACH, run
from benchmarks.timing import quantile
from weft.checkpoint.embedded import cache_dir
from weft.launch.executor import ProcessExecutor
from weft.settings import EngineConfig

WAYS = ("anywhere", "on the server's core")


def start(model: str | None, settings: EngineConfig, way: str, tokens: int, rounds: int) -> dict[str, float]:
    """Medians of one start."""
    with watched(model, 1, settings) as engine:
        assert isinstance(engine.engine.executor, ProcessExecutor)
        if way == WAYS[0]:
            engine.engine.executor.watch.wait_on(())
        bursts, used_us = [], []
        for number in range(rounds + 1):
            before = time.thread_time()
            bursts.append(run(engine, number, 1, tokens, EACH))
            used_us.append(1e6 * (time.thread_time() - before) / tokens)
        found = {"step_ms": [each.whole for each in bursts], "between_ms": [each.between for each in bursts]}
        # the first round is not counted
        return {name: round(statistics.median(each[1:]), 3) for name, each in {**found, "engine_us": used_us}.items()}


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--tokens", type=at_least(8), default=257)
    parser.add_argument("--starts", type=even, default=6)
    parser.add_argument("--rounds", type=whole, default=5)
    arguments = parser.parse_args()
    settings = EngineConfig(
        max_model_len=2048, kv_cache_memory=256 << 20, enable_prefix_caching=False, quantization=arguments.quantization
    )
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with Probe(cache_dir() / "peers") as probe:
        looks = [probe.ask_behind()]
        for turn in range(arguments.starts):
            for way in WAYS[:: 1 if turn % 2 else -1]:
                found[way].append(start(arguments.model, settings, way, arguments.tokens, arguments.rounds))
            looks.append(probe.ask_behind())
    pairs = zip(*(found[way] for way in WAYS), strict=True)
    ratios = [other["step_ms"] / own["step_ms"] for other, own in pairs]
    told = {"ratio": statistics.median(ratios)} | {f"ratio_q{n}": quantile(ratios, n / 4) for n in (1, 3)}
    cases = {"1 stream": {name: round(each, 3) for name, each in told.items()}, **found}
    tell(arguments, cases, looks)


if __name__ == "__main__":
    run_command(main)
