"""How near decode steps come to what reading their bytes takes: streams, and the memory's speed, in turns.

    python benchmarks/decode_bound.py [--model DIR] [--threads N] [--quantization Q [--activations full|int8]]
                                      [--no-compress-weights] [--rounds 50] [--save FILE.json]

A virtual machine's memory changes its speed within seconds. So each stream, 256 tokens after a prompt of 128, stands
between two looks at it (the probe that `peers/run` asks): the bound is a step's bytes, weights and the context's keys
and values, over the mean of both bandwidths, and the figure is bound over step, the mean step of a stream, median and
quartiles over the streams. A look reads 257 MiB four times, so the eight steps right after it and the prompt, which
pay for that, are a figure of their own, and so are the 48 that follow. What stays in the last cache from step to step
is read faster than the bound says: where later steps pass it, that is why. A step is what a caller of the engine sees,
between two tokens, with one rank in a process of its own, as `weft serve` runs it; HTTP is not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import Watched, options, tell, watched
from benchmarks.common.step_subject import OneRank, cores_given_back
from benchmarks.common.timing import quantile
from benchmarks.peers.probe import Probe
from weft.base.settings import EngineConfig
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.model.checkpoint.hub.paths import model_path

PROMPT, BLOCK_SIZE = 128, 16
STEPS = 255
"""Of a stream; the prompt brings the first token."""
PARTS = {"share": (8, STEPS), "share_right_behind_a_look": (0, 8), "share_then": (8, 56), "share_at_last": (128, STEPS)}
"""Its steps that each figure is of."""
LENGTH = PROMPT + STEPS + 1


@dataclass(frozen=True, slots=True)
class Bytes:
    """What a step reads: of weights, and of each position's keys and values."""

    weights: int
    position: int

    def of(self, context: int) -> int:
        """In all."""
        return self.weights + context * self.position


def bytes_of(model: str | None, settings: EngineConfig) -> Bytes:
    """By the packed weights that the step program's products name."""
    with cores_given_back():
        one = OneRank(open_checkpoint(model_path(model)), settings, 1, LENGTH // BLOCK_SIZE + 2)
    found = Bytes(sum(one.weight_bytes.values()), one.kv_bytes)
    one.close()
    return found


def steps_s(engine: Watched, name: str) -> list[float]:
    """Seconds of a stream's steps."""
    engine.add(name, [31 * place % engine.vocabulary for place in range(PROMPT)], STEPS + 1)
    engine.finish()
    came = engine.came.pop(name)
    return [after - before for before, after in zip(came, came[1:], strict=False)]


def measure(engine: Watched, probe: Probe, reads: Bytes, rounds: int) -> dict[str, float]:
    """Medians, and quartiles of the shares; the first stream is not counted. `gb_per_s`: what the memory gave."""
    bounds, steps, rates = list[float](), list[float](), list[float]()
    shares: dict[str, list[float]] = {name: [] for name in PARTS}
    before = probe.ask()["gb_per_s"]
    for number in range(rounds + 1):
        took = steps_s(engine, str(number))
        after = probe.ask()["gb_per_s"]
        bandwidth, before = 1e9 * statistics.mean((before, after)), after
        if not number:
            continue
        rates.append(bandwidth / 1e9)
        for name, (first, end) in PARTS.items():
            bound, step = reads.of(PROMPT + (first + end) // 2) / bandwidth, statistics.mean(took[first:end])
            shares[name].append(bound / step)
            if name == "share":
                bounds.append(bound)
                steps.append(step)
    found = {
        "weights_mb": reads.weights / 1e6,
        "gb_per_s": statistics.median(rates),
        "bound_ms": 1e3 * statistics.median(bounds),
        "step_ms": 1e3 * statistics.median(steps),
    }
    for name, values in shares.items():
        found |= {name: statistics.median(values)} | {f"{name}_q{n}": quantile(values, n / 4) for n in (1, 3)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--threads", type=whole, help="of the rank (default: one for each core)")
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--activations", choices=("auto", "full", "int8"), default="auto")
    on_or_off = argparse.BooleanOptionalAction
    parser.add_argument("--compress-weights", action=on_or_off, default=None, help="numbers in 12 bits, if any")
    parser.add_argument("--rounds", type=whole, default=50, help="streams, one after another")
    arguments = parser.parse_args()
    settings = EngineConfig(
        max_model_len=LENGTH,
        max_num_seqs=1,
        enable_prefix_caching=False,
        block_size=BLOCK_SIZE,
        dtype="bfloat16",
        quantization=arguments.quantization,
        activations=arguments.activations,
        compress_weights=arguments.compress_weights,
        threads=arguments.threads,
    )
    reads = bytes_of(arguments.model, settings)
    with Probe(cache_dir() / "peers") as probe, watched(arguments.model, 1, settings) as engine:
        tell(arguments, {"decode, one stream": measure(engine, probe, reads, arguments.rounds)})


if __name__ == "__main__":
    run_command(main)
