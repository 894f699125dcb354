"""How near a decode step comes to what reading its bytes takes: steps, and the memory's speed, in turns.

    python benchmarks/decode_bound.py [--model DIR] [--threads N] [--quantization Q [--activations int8]]
                                      [--rounds 100] [--save FILE.json]

A virtual machine's memory changes its speed within seconds. So a few steps stand between two looks at it (the probe
that `peers/run` asks): the bound is their bytes, weights and the context's keys and values, over the mean of both
bandwidths, and the figure is bound over step, median and quartiles. A step is the engine's, scheduler and sampling
included, of one rank in this process; of the few the fastest stands beside the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.offline_engine import options, quantile, tell
from benchmarks.peers.probe import Probe
from benchmarks.step_subject import OneRank
from weft.checkpoint import open_checkpoint
from weft.checkpoint.embedded import cache_dir
from weft.checkpoint.hub import model_path
from weft.engine.engine import Engine
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams

PROMPT, BLOCK_SIZE, STEPS = 128, 16, 4
"""Steps: between two looks."""


def step_s(engine: Engine) -> float:
    """Seconds of one."""
    began = time.perf_counter()
    engine.step()
    return time.perf_counter() - began


def measure(arguments: argparse.Namespace, probe: Probe) -> dict[str, float]:
    """Medians, and quartiles of the shares."""
    length = PROMPT + STEPS * arguments.rounds + 1
    settings = EngineConfig(
        max_model_len=length,
        max_num_seqs=1,
        enable_prefix_caching=False,
        block_size=BLOCK_SIZE,
        dtype="bfloat16",
        quantization=arguments.quantization,
        activations=arguments.activations,
    )
    one = OneRank(open_checkpoint(model_path(arguments.model)), settings, arguments.threads, length // BLOCK_SIZE + 2)
    weights = sum(one.weight_bytes.values())
    engine = Engine(one, settings, ())
    params = SamplingParams(max_tokens=STEPS * arguments.rounds + 1, temperature=0.0, ignore_eos=True)
    engine.add_request("one", [31 * place % 49_000 for place in range(PROMPT)], params)
    engine.step()
    speeds, steps = [probe.ask()["gb_per_s"]], list[float]()
    shares: dict[str, list[float]] = {"share": [], "share_of_fastest": []}
    for number in range(arguments.rounds):
        few = [step_s(engine) for _ in range(STEPS)]
        speeds.append(probe.ask()["gb_per_s"])
        bound_s = (weights + (PROMPT + STEPS * number) * one.kv_bytes) / statistics.mean(speeds[-2:]) / 1e9
        steps += few
        shares["share"].append(bound_s / statistics.median(few))
        shares["share_of_fastest"].append(bound_s / min(few))
    one.close()
    found = {
        "weights_mb": weights / 1e6,
        "gb_per_s": statistics.median(speeds),
        "step_ms": 1e3 * statistics.median(steps),
    }
    for name, values in shares.items():
        found |= {name: statistics.median(values)} | {f"{name}_q{n}": quantile(values, n / 4) for n in (1, 3)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--activations", choices=("full", "int8"), default="full")
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    with Probe(cache_dir() / "peers") as probe:
        tell(arguments, {"decode, one stream": measure(arguments, probe)})


if __name__ == "__main__":
    main()
