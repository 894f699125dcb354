"""Several ranks with a thread each beside one rank with as many: the same bursts of requests, in turns.

    python benchmarks/several_ranks.py [--model DIR | --even-heads] [--tp 2] [--rounds 12] [--save FILE.json]

Four engines stay up and take turns burst by burst, so that what else the machine does meets all: one rank; several,
which lend each other their cores; the same with whole KV groups dealt (`--attn-split groups`); and without lent cores.
Of every burst the ratio is taken, and of the ratios median and quartiles: how much of one rank's speed several reach.
`--even-heads`: the embedded model as `peers/run` makes it for servers that split heads evenly, with heads of zeros
(9 become 12 over 4 of keys and values); the peers' converter must be installed. Offline: no HTTP.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import run_command, whole
from benchmarks.offline_engine import options, quantile, tell
from benchmarks.peers.models import EMBEDDED, Models
from benchmarks.peers.places import Places
from weft.checkpoint.embedded import cache_dir, embedded_model
from weft.llm import LLM
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams

CASES = {
    "prefill of 1,024": (1, 1024, 1),
    "decode": (1, 8, 40),
    "8 streams": (8, 8, 24),
    "32 streams": (32, 8, 24),
    "8 prompts of 128": (8, 128, 1),
    "32 prompts of 128": (32, 128, 1),
}
"""Streams, tokens of each prompt, tokens to give."""


def burst_s(llm: LLM, streams: int, length: int, tokens: int) -> float:
    """Seconds until all have ended."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    prompts = [[(7919 * (stream + 1) + 31 * place) % 49_000 for place in range(length)] for stream in range(streams)]
    began = time.perf_counter()
    llm.generate(prompts, params)
    return time.perf_counter() - began


WAYS = {
    "several": ("auto", True),
    "several, whole groups": ("groups", True),
    "several, no core lent": ("auto", False),
}
"""How heads are dealt, and whether cores are lent."""


def measure(engines: Mapping[str, LLM], case: tuple[int, int, int], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second (of a prompt's where none but one are given), medians; of what is not the first engine also its
    ratio to that, with quartiles."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(burst_s(engines[name], *case))
    streams, length, tokens = case
    count = streams * (tokens if tokens > 1 else length)
    alone, found = taken[names[0]][1:], {}
    for name, seconds in taken.items():
        ratios = [one / each for one, each in zip(alone, seconds[1:], strict=True)]
        found[name] = {"tok_s": round(count / statistics.median(seconds[1:]), 1)}
        if name != names[0]:
            found[name]["ratio"] = round(statistics.median(ratios), 3)
            found[name] |= {f"ratio_q{n}": round(quantile(ratios, n / 4), 3) for n in (1, 3)}
    return found


def main() -> None:
    parser = options(__doc__)
    parser.set_defaults(tp=2)
    parser.add_argument("--even-heads", action="store_true")
    parser.add_argument("--rounds", type=whole, default=12)
    arguments = parser.parse_args()
    model = arguments.model
    if arguments.even_heads:
        model = Models(Places(cache_dir() / "peers", EMBEDDED, ()), embedded_model()).make("padded")
    config = EngineConfig(max_model_len=2048, kv_cache_memory=256 << 20, enable_prefix_caching=False)
    with ExitStack() as stack:
        engines = {"one": stack.enter_context(LLM(model, tp=1, config=config))}
        for name, (split, lends) in WAYS.items():
            settings, layout = replace(config, lend_cores=lends), {"attention": {"split": split}}
            engines[name] = stack.enter_context(LLM(model, layout=layout, tp=arguments.tp, config=settings))
        tell(arguments, {name: measure(engines, case, arguments.rounds) for name, case in CASES.items()})


if __name__ == "__main__":
    run_command(main)
