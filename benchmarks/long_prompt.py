"""A prompt of 8,000 tokens that comes while 8 streams flow: how long their tokens take meanwhile, and its first one.

    python benchmarks/long_prompt.py [--model DIR] [--tp N] [--streams 8] [--prompt 8000] [--save FILE.json]

Time between tokens of the streams, before the prompt comes and while it is read, with the step's pace for late prompts
(`--prefill-stretch`, as served) and without; and the time to the prompt's first token. Offline: no HTTP.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import Watched, options, tell, watched
from benchmarks.common.timing import quantile
from weft.base.settings import EngineConfig

BEFORE = 64
"""Tokens of each stream before the prompt comes."""


def measure(engine: Watched, streams: int, length: int) -> dict[str, float]:
    """Milliseconds."""
    for stream in range(streams):
        engine.add(f"s{stream}", engine.prompt(stream, 64), 2000)
    while min(len(engine.came[f"s{stream}"]) for stream in range(streams)) < BEFORE:
        engine.step()
    began = time.perf_counter()
    engine.add("long", engine.prompt(streams, length), 1)
    while not engine.came["long"]:
        engine.step()
    first = engine.came["long"][0]
    gaps: dict[str, list[float]] = {"before": [], "while": []}
    for stream in range(streams):
        engine.engine.abort(f"s{stream}")
        times = engine.came[f"s{stream}"]
        for a, b in zip(times, times[1:], strict=False):
            if b <= began:
                gaps["before"].append(1e3 * (b - a))
            elif b <= first:
                gaps["while"].append(1e3 * (b - a))
    engine.finish()
    found = {"ttft_of_the_prompt_ms": 1e3 * (first - began)}
    for when, values in gaps.items():
        found |= {f"itl_p50_{when}_ms": quantile(values, 0.5), f"itl_p99_{when}_ms": quantile(values, 0.99)}
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--streams", type=whole, default=8)
    parser.add_argument("--prompt", type=whole, default=8000)
    arguments = parser.parse_args()
    cases = {}
    for stretch in (EngineConfig().prefill_stretch, 0.0):
        settings = EngineConfig(
            dtype="bfloat16",
            max_num_seqs=arguments.streams + 1,
            enable_prefix_caching=False,
            prefill_stretch=stretch,
        )
        with watched(arguments.model, arguments.tp, settings) as engine:
            cases[f"prefill_stretch {stretch:g}"] = measure(engine, arguments.streams, arguments.prompt)
    tell(arguments, cases)


if __name__ == "__main__":
    run_command(main)
