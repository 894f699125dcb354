"""How near a decode step comes to what reading its bytes takes: steps, and the memory's speed, in turns.

    python benchmarks/decode_bound.py [--model DIR] [--threads N] [--quantization Q [--activations int8]]
                                      [--rounds 5] [--save FILE.json]

A virtual machine's memory changes its speed within seconds. So the steps of a stream, 240 behind a prompt of 128, stand
by 24 between two looks at it (the probe that `peers/run` asks): the bound is their bytes, weights and the context's
keys and values, over the mean of both bandwidths, and the figure is bound over step, median and quartiles over the
looks. A look reads 514 MiB and lets the threads of steps fall asleep, so the eight steps right behind it, which pay for
that, are a figure of their own. What stays in the last cache from step to step is read faster than the bound says:
weights of fewer bytes than the 257 MiB that a look goes through may pass it. A step is the engine's, scheduler and
sampling included, of one rank in this process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import run_command, whole
from benchmarks.offline_engine import options, quantile, tell
from benchmarks.peers.probe import Probe
from benchmarks.step_subject import OneRank
from weft.checkpoint import open_checkpoint
from weft.checkpoint.embedded import cache_dir
from weft.checkpoint.hub import model_path
from weft.engine.engine import Engine
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams

PROMPT, BLOCK_SIZE = 128, 16
LOOKS, STEPS, BEHIND = 10, 24, 8
"""Of a stream; between two looks; of those, right behind one."""


def step_s(engine: Engine) -> float:
    """Seconds of one."""
    began = time.perf_counter()
    engine.step()
    return time.perf_counter() - began


def stream(engine: Engine, probe: Probe, read: Callable[[int], float]) -> Iterator[tuple[float, list[float]]]:
    """One request's steps, by looks: their bound, by the bytes that `read` says for a context, and seconds of each.
    Unit of the bound: seconds."""
    params = SamplingParams(max_tokens=LOOKS * STEPS + 1, temperature=0.0, ignore_eos=True)
    engine.add_request("one", [31 * place % 49_000 for place in range(PROMPT)], params)
    engine.step()
    before = probe.ask()["gb_per_s"]
    for number in range(LOOKS):
        took = [step_s(engine) for _ in range(STEPS)]
        after = probe.ask()["gb_per_s"]
        yield read(PROMPT + STEPS * number + STEPS // 2) / statistics.mean((before, after)) / 1e9, took
        before = after


def measure(arguments: argparse.Namespace, probe: Probe) -> dict[str, float]:
    """Medians, and quartiles of the shares."""
    length = PROMPT + LOOKS * STEPS + 1
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
    bounds, steps = list[float](), list[float]()
    shares: dict[str, list[float]] = {"share": [], "share_right_behind_a_look": []}
    for _ in range(arguments.rounds):
        for bound_s, took in stream(engine, probe, lambda context: weights + context * one.kv_bytes):
            bounds.append(bound_s)
            steps += took[BEHIND:]
            shares["share"].append(bound_s / statistics.median(took[BEHIND:]))
            shares["share_right_behind_a_look"].append(bound_s / statistics.median(took[:BEHIND]))
    one.close()
    found = {
        "weights_mb": weights / 1e6,
        "bound_ms": 1e3 * statistics.median(bounds),
        "step_ms": 1e3 * statistics.median(steps),
    }
    for name, values in shares.items():
        found |= {name: statistics.median(values)} | {f"{name}_q{n}": quantile(values, n / 4) for n in (1, 3)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--threads", type=whole, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--activations", choices=("full", "int8"), default="full")
    parser.add_argument("--rounds", type=whole, default=5, help="streams, one after another")
    arguments = parser.parse_args()
    with Probe(cache_dir() / "peers") as probe:
        tell(arguments, {"decode, one stream": measure(arguments, probe)})


if __name__ == "__main__":
    run_command(main)
