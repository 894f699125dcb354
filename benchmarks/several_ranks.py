"""Several ranks with a thread each beside one rank with as many: the same bursts of requests, in turns.

    python benchmarks/several_ranks.py [--model DIR | --even-heads] [--tp 2] [--attn-split groups] [--no-lend-cores]
                                       [--rounds 12] [--save FILE.json]

Both engines stay up and take turns burst by burst, so that what else the machine does meets both; of every burst the
ratio is taken, and of the ratios median and quartiles: how much of one rank's speed several reach. `--even-heads`: the
embedded model as `peers/run` makes it for servers that split heads evenly, with heads of zeros (9 become 12 over 4 of
keys and values); the peers' converter must be installed. Offline: no HTTP.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

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


def measure(one: LLM, several: LLM, case: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Tokens per second (of a prompt's where none but one are given), medians, and the ratio's quartiles."""
    taken: dict[LLM, list[float]] = {one: [], several: []}
    for number in range(rounds + 1):
        for llm in (one, several) if number % 2 else (several, one):
            taken[llm].append(burst_s(llm, *case))
    first, second = (taken[llm][1:] for llm in (one, several))
    ratios = [alone / shared for alone, shared in zip(first, second, strict=True)]
    streams, length, tokens = case
    count = streams * (tokens if tokens > 1 else length)
    return {
        "one_rank_tok_s": round(count / statistics.median(first), 1),
        "several_ranks_tok_s": round(count / statistics.median(second), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_q1": round(quantile(ratios, 0.25), 3),
        "ratio_q3": round(quantile(ratios, 0.75), 3),
    }


def main() -> None:
    parser = options(__doc__)
    parser.set_defaults(tp=2)
    parser.add_argument("--even-heads", action="store_true")
    parser.add_argument("--attn-split", choices=("auto", "groups", "balanced"), default="auto")
    parser.add_argument("--no-lend-cores", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    model = arguments.model
    if arguments.even_heads:
        model = Models(Places(cache_dir() / "peers", EMBEDDED, ()), embedded_model()).make("padded")
    lends = not arguments.no_lend_cores
    config = EngineConfig(max_model_len=2048, kv_cache_memory=512 << 20, enable_prefix_caching=False, lend_cores=lends)
    layout = {"attention": {"split": arguments.attn_split}}
    with LLM(model, tp=1, config=config) as one, LLM(model, layout=layout, tp=arguments.tp, config=config) as several:
        tell(arguments, {name: measure(one, several, case, arguments.rounds) for name, case in CASES.items()})


if __name__ == "__main__":
    main()
