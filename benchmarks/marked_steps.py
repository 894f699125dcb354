"""The price of running a whole step eagerly because one group's prompt gathers keys: time between another's tokens.

    python benchmarks/marked_steps.py [--rounds 8] [--prompt 1500] [--chunk 256] [--save FILE.json]

Random models (see `common/shared_contexts.py`) by four ranks: two groups of attention dp, each of two owners. One group
decodes while the other reads a prompt. In turns: all ranks run such a step eagerly, as the engine does; only those of
the prompt's group do, which is possible where no experts are dispatched by all_to_all. Milliseconds, median of a turn.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import Watched, options, tell, watched
from benchmarks.common.shared_contexts import MODELS, write
from benchmarks.common.timing import ratios_beside
from weft.base.settings import EngineConfig
from weft.base.step.plan import RankPlan, StepPlan
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve

LAYOUT: dict[str, object] = {"attention.dp": 2, "attention.cp": 2}
LAYERS = 4
STREAM = 400
"""Tokens of the group that decodes; more than a prompt has chunks."""


@contextmanager
def only_the_prompts_group() -> Iterator[None]:
    """Other groups run their rows of a marked step as a program."""
    whole_step = RankPlans.split

    def split(self: RankPlans, plan: StepPlan) -> list[RankPlan]:
        parts = whole_step(self, plan)
        groups = [replace(plan, groups=(group,)) for group in plan.groups]
        return [replace(part, eager=self._runs_eagerly(own)) for part, own in zip(parts, groups, strict=True)]

    with patch.object(RankPlans, "split", split):
        yield


def between_tokens_ms(engine: Watched, name: str, length: int) -> float:
    """Median between the stream's tokens while the prompt is read."""
    engine.add(f"stream {name}", engine.prompt(1, 8), STREAM)
    while len(engine.came[f"stream {name}"]) < 8:
        engine.step()
    began = len(engine.came[f"stream {name}"])
    engine.add(f"prompt {name}", engine.prompt(sum(map(ord, name)), length), 1)
    while not engine.came[f"prompt {name}"]:
        engine.step()
    came = engine.came[f"stream {name}"][began:]
    engine.finish()
    return 1e3 * statistics.median(after - before for before, after in zip(came, came[1:], strict=False))


def measure(path: Path, arguments: Any) -> dict[str, Any]:
    """Both ways in turns, of one model."""
    limits = {"max_num_batched_tokens": arguments.chunk, "max_model_len": 2 * arguments.prompt + STREAM}
    settings = EngineConfig(dtype="bfloat16", max_num_seqs=4, enable_prefix_caching=False, **limits)
    times: dict[str, list[float]] = {"all ranks eager": [], "the prompt's group eager": []}
    with watched(str(path), 1, settings, resolve(LAYOUT)) as engine:
        for turn in range(arguments.rounds + 1):
            every = between_tokens_ms(engine, f"all {turn}", arguments.prompt)
            with only_the_prompts_group():
                own = between_tokens_ms(engine, f"own {turn}", arguments.prompt)
            if turn:
                times["all ranks eager"].append(every)
                times["the prompt's group eager"].append(own)
    medians = {name: round(statistics.median(found), 2) for name, found in times.items()}
    return medians | ratios_beside(*times.values())


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--rounds", type=whole, default=8)
    parser.add_argument("--prompt", type=whole, default=1500)
    parser.add_argument("--chunk", type=whole, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {**MODELS["one KV head"], "num_hidden_layers": LAYERS}
        path = write(Path(folder) / "model", sizes)
        tell(arguments, {"one KV head, attention dp 2, cp 2": measure(path, arguments)})


if __name__ == "__main__":
    run_command(main)
