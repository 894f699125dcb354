"""Times between the tokens of streams that come together, and how much of their spread is the machine's own.

    python benchmarks/token_gaps.py [--model DIR] [--tp N] [--streams 8] [--tokens 128] [--rounds 12] [--save FILE.json]

In turns: the streams over HTTP; the same through the engine alone, with its ranks in processes of their own but no
HTTP; and the products of such a step alone, C++ without Python, engine or rank, as often as there are steps. All
streams wait alike for a step, so that the 99th percentile of an answer of 128 tokens is about its second slowest one:
where products alone spread as far, it is the machine that makes steps slow. Of each: the median, the 99th percentile
and the longest of a round, medians over rounds, quartiles of the ratio of the first two; of HTTP and engine also which
gaps are slowest, by their number. A stream whose prompt is read a step before others' waits for those first. No two
prompts are alike, so that the prefix cache keeps every block, and each round's blocks are new ones.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from packed_linear import Buffers, packed, plain_weights, program_of, step_of, step_shapes

from benchmarks.built import step_library
from benchmarks.command import at_least, run_command, whole
from benchmarks.offline_engine import Watched, options, tell, watched
from benchmarks.peers.http_client import burst
from benchmarks.peers.prompts import prompts as prompts_of
from benchmarks.timing import TURN_SPIN_NS, once, quantile
from weft.arch.families import parse_config
from weft.bench.served import Served
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub.paths import model_path
from weft.cli.hosted import PROGRAM
from weft.errors import ConfigError
from weft.native.step_library import Pool
from weft.settings import EngineConfig
from weft.text import Tokenizer

PROMPT = 128
LIMIT_S = 300.0
SLOWEST = 3

Gaps = list[list[float]]
"""Milliseconds between tokens, of each stream."""


def over_http(url: str, prompts: Sequence[Sequence[int]], tokens: int) -> Gaps:
    """Of one burst."""
    port = urlsplit(url).port
    assert port is not None
    outcomes = burst(port, prompts, tokens, LIMIT_S)
    return [[1e3 * gap for gap in outcome.gaps] for outcome in outcomes]


def through_engine(engine: Watched, prompts: Sequence[Sequence[int]], tokens: int) -> Gaps:
    """Of the same requests without HTTP."""
    names = [f"{len(engine.came)}.{stream}" for stream in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        engine.add(name, prompt, tokens)
    engine.finish()
    return [[1e3 * (b - a) for a, b in itertools.pairwise(engine.came[name])] for name in names]


def texts(model: str | None, streams: int) -> list[list[int]]:
    """Prompts of words, as `peers/run` gives: behind ids at random some answers have characters of several tokens, that
    a stream holds back until they are whole."""
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(model_path(model)))
    return prompts_of(lambda text: list(tokenizer.encode(text)), streams, PROMPT)


def products(model: str | None, streams: int) -> tuple[Pool, Callable[[], None]]:
    """Those of one step of so many streams, with random weights of the model's shapes. ConfigError: it is not dense."""
    config = parse_config(open_checkpoint(model_path(model)).config)
    if config.num_experts or config.mla:
        raise ConfigError("products alone are those of dense models: this one has experts or latent attention")
    heads, kept = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    sizes = (config.hidden_size, heads + kept, heads, config.intermediate_size, config.vocab_size)
    pool = Pool(step_library(), torch.get_num_threads(), spin_ns=TURN_SPIN_NS)
    shapes = step_shapes(config.num_layers, sizes)
    plain, buffers = plain_weights(shapes), Buffers(shapes, streams)
    program = program_of(pool, shapes, packed(pool, "bf16", shapes, plain), buffers)
    step = step_of(streams)
    return pool, lambda: program.run(step)


def summary(rounds: list[Gaps]) -> dict[str, object]:
    """Of one kind."""
    every = [[gap for stream in gaps for gap in stream] for gaps in rounds]
    p50, p99 = [statistics.median(gaps) for gaps in every], [quantile(gaps, 0.99) for gaps in every]
    ratios = [high / middle for high, middle in zip(p99, p50, strict=True)]
    found = {"p50_ms": statistics.median(p50), "p99_ms": statistics.median(p99), "p99_over_p50": quantile(ratios, 0.5)}
    found["longest_ms"] = statistics.median(max(gaps) for gaps in every)
    found |= {f"p99_over_p50_q{n}": quantile(ratios, n / 4) for n in (1, 3)}
    return {name: round(value, 2) for name, value in found.items()}


def slowest(rounds: list[Gaps]) -> dict[str, float]:
    """Those gaps, by number from 1 on, whose medians over streams and rounds are highest, in medians of all."""
    streams = [stream for gaps in rounds for stream in gaps]
    columns = [statistics.median(column) for column in zip(*streams, strict=False)]
    order = sorted(range(len(columns)), key=lambda number: -columns[number])[:SLOWEST]
    return {f"gap {number + 1}": round(columns[number] / statistics.median(columns), 2) for number in order}


def measure(arguments: argparse.Namespace, url: str, engine: Watched) -> dict[str, dict[str, object]]:
    """All three, in turns; the first round is not counted."""
    streams, tokens = arguments.streams, arguments.tokens
    every = texts(arguments.model, streams * (arguments.rounds + 1))
    pool, run = products(arguments.model, streams)
    kinds: dict[str, list[Gaps]] = {"http": [], "engine": [], "products alone": []}
    for number in range(arguments.rounds + 1):
        prompts = every[number * streams : (number + 1) * streams]
        found = [
            over_http(url, prompts, tokens),
            through_engine(engine, prompts, tokens),
            [[once(run) for _ in range(tokens - 1)]],
        ]
        for name, gaps in zip(kinds, found, strict=True):
            if number:
                kinds[name].append(gaps)
    pool.close()
    cases = {name: summary(rounds) for name, rounds in kinds.items()}
    for name in ("http", "engine"):
        cases[name]["slowest_over_median"] = slowest(kinds[name])
    return cases


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--streams", type=whole, default=8)
    parser.add_argument("--tokens", type=at_least(3), default=128)
    parser.add_argument("--rounds", type=whole, default=12)
    arguments = parser.parse_args()
    model = [arguments.model] if arguments.model else []
    words = ["serve", *model, "--tp", str(arguments.tp), "--port", "0", "--served-model-name", "model"]
    settings = EngineConfig(dtype="bfloat16", max_num_seqs=arguments.streams)
    with Served(PROGRAM, [*words, "--dtype", "bfloat16"]) as served:
        url = served.wait_ready()
        with watched(arguments.model, arguments.tp, settings) as engine:
            tell(arguments, measure(arguments, url, engine))


if __name__ == "__main__":
    run_command(main)
