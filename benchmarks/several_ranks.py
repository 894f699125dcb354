"""Several ranks with a thread each beside one rank with as many: the same bursts of requests, in turns.

    python benchmarks/several_ranks.py [--model DIR | --even-heads] [--tp 2] [--ways several ...] [--rounds 12]
                                       [--threads N] [--layers 17,13] [--cases "8 streams" ...] [--starts 2]
                                       [--save FILE.json]

Three engines: one rank; several; the same with query heads split evenly (`--attn-split balanced`); `--ways`: fewer of
these, or "stages": as many pipeline stages of one rank, even ones, and again with `--layers` each; of these also how
idle each stage was, and in a simulation of the same bursts. `--threads`: of each rank, of the one too. See
`benchmarks/common/bursts.py` for what is compared; the bursts are those of `peers/run`.
`--contexts 8000 16000`: instead, decode after contexts of so many tokens, by two ranks that copy the KV cache and by
two that share it (`benchmarks/common/shared_contexts.py`).
`--even-heads`: the embedded model as `peers/run` makes it for servers that split heads evenly, with heads of zeros
(9 become 12 over 4 of keys and values); the peers' converter must be installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.bursts import Burst, Generates, in_starts
from benchmarks.common.command import even, run_command, whole
from benchmarks.common.offline_engine import options, tell
from benchmarks.common.shared_contexts import by_layout
from benchmarks.common.stage_idle import StageIdle
from benchmarks.peers.models import EMBEDDED, Models
from benchmarks.peers.places import Places
from benchmarks.peers.probe import Probe
from weft.base.settings import EngineConfig
from weft.frontend.llm import LLM
from weft.model.checkpoint.hub.embedded import cache_dir, embedded_model

CASES: dict[str, Burst] = {
    "prefill of 1,024": (1, 1024, 1),
    "decode": (1, 128, 256),
    "8 streams": (8, 128, 128),
    "32 streams": (32, 128, 128),
}
OF_STAGES: dict[str, Burst] = {
    "4 streams": (4, 128, 128),
    "16 streams": (16, 128, 128),
    "prefill of 7,000": (1, 7000, 1),
}
"""Measured where they are asked for: what pipeline stages can gain follows from batches of half the size."""
WAYS = {
    "several": "auto",
    "several, even heads": "balanced",
}
"""How heads are split."""
STAGES = "stages"


def staged_ways(stages: int, layers: str | None) -> dict[str, dict[str, object]]:
    """Layouts by way: even stages and, where layers are named, stages with these."""
    ways: dict[str, dict[str, object]] = {STAGES: {"pipeline.stages": stages}}
    if layers:
        ways[f"{STAGES} of {layers} layers"] = {"pipeline.layers": tuple(map(int, layers.split(",")))}
    return ways


def main() -> None:
    parser = options(__doc__)
    parser.set_defaults(tp=2)
    parser.add_argument("--even-heads", action="store_true")
    ways, cases = [*WAYS, STAGES], CASES | OF_STAGES
    parser.add_argument("--ways", nargs="+", choices=ways, default=list(WAYS), help="those beside one rank")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(CASES))
    parser.add_argument("--layers", help="of each pipeline stage, as 17,13: beside even ones")
    parser.add_argument("--threads", type=whole, help="of each rank (default: its share of the cores)")
    parser.add_argument("--rounds", type=whole, default=12, help="of each start")
    parser.add_argument("--starts", type=even, default=2, help="of all engines, the last one first in every other")
    parser.add_argument(
        "--contexts", type=whole, nargs="+", help="ranks that share contexts of so many tokens, instead"
    )
    arguments = parser.parse_args()
    if arguments.contexts:
        found = {}
        for name, figures in by_layout(arguments.contexts, arguments.rounds):
            found[name] = figures
            tell(arguments, found)  # what is measured stays, whatever ends the rest
        return
    model = arguments.model
    if arguments.even_heads:
        model = Models(Places(cache_dir() / "peers", EMBEDDED, ()), embedded_model()).make("padded")
    longest = max(length + tokens for _, length, tokens in (cases[name] for name in arguments.cases))
    config = EngineConfig(
        max_model_len=max(2048, longest),
        kv_cache_memory=384 << 20,
        enable_prefix_caching=False,
        threads=arguments.threads,
    )
    makers: dict[str, Callable[[], AbstractContextManager[Generates]]] = {
        "one": partial(LLM, model, tp=1, config=config)
    }
    idle = dict[str, StageIdle]()
    for name in arguments.ways:
        if name == STAGES:
            for way, staged in staged_ways(arguments.tp, arguments.layers).items():
                idle[way] = StageIdle(staged, config)
                makers[way] = partial(idle[way].watched, partial(LLM, model, layout=staged, config=config))
            continue
        layout = {"attention": {"split": WAYS[name]}}
        makers[name] = partial(LLM, model, layout=layout, tp=arguments.tp, config=config)
    with Probe(cache_dir() / "peers") as probe:
        chosen = {name: cases[name] for name in arguments.cases}
        found, looks = in_starts(probe, makers, chosen, arguments.starts, arguments.rounds)
    for way, watched in idle.items():
        watched.add_to(found, chosen, way)
    tell(arguments, found, looks)


if __name__ == "__main__":
    run_command(main)
