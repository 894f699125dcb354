"""An engine over ranks in processes of their own, as `weft serve` runs it, for benchmarks that watch single tokens."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks.common.about import about
from benchmarks.common.command import result_file, whole
from benchmarks.peers.probe import State
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.paths import model_path
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.start import Starting


class Watched:
    """The engine, and each request's tokens: which, and when (seconds) they came."""

    def __init__(self, engine: Engine, vocabulary: int) -> None:
        self.engine, self.vocabulary = engine, vocabulary
        self.came: dict[str, list[float]] = defaultdict(list)
        self.answered: dict[str, list[int]] = defaultdict(list)
        self.cached: dict[str, int] = {}

    def add(self, name: str, prompt: Sequence[int], tokens: int) -> None:
        """A greedy request of so many tokens."""
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        self.engine.add_request(name, prompt, params)

    def step(self) -> None:
        """One step of the engine."""
        for output in self.engine.step():
            self.cached[output.request_id] = output.cached_tokens
            self.answered[output.request_id] += output.new_token_ids
            self.came[output.request_id] += [time.perf_counter()] * len(output.new_token_ids)

    def finish(self) -> None:
        """Steps until nothing is left."""
        while self.engine.has_work:
            self.step()

    def prompt(self, seed: int, length: int) -> list[int]:
        """Ids that no other seed gives."""
        return [(7919 * (seed + 1) + 31 * place + place // 97) % self.vocabulary for place in range(length)]


@contextmanager
def watched(model: str | None, tp: int, settings: EngineConfig, layout: Layout | None = None) -> Iterator[Watched]:
    """Starts the ranks; ends them at the end. `layout`: of the ranks, where there is more than `tp`; the model may then
    have no tokenizer."""
    checkpoint = open_checkpoint(model_path(model))
    plan = plan_launch(checkpoint, layout or resolve({}, tp=tp), settings)
    if layout is None:
        vocabulary = Tokenizer.from_checkpoint(checkpoint).vocabulary(plan.config.vocab_size, plan.eos_token_ids)
        plan = plan.with_vocabulary((), vocabulary)
    starting = Starting(plan)
    executor = starting.wait()
    plan = starting.plan
    try:
        yield Watched(Engine(executor, plan.engine, ()), plan.config.vocab_size)
    finally:
        executor.close()


def options(description: str | None, ranks: bool = True) -> argparse.ArgumentParser:
    """What every benchmark of such an engine takes; `ranks`: whether it may have several."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or .gguf (default: the embedded model)")
    if ranks:
        parser.add_argument("--tp", type=whole, default=1)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    return parser


def tell(arguments: argparse.Namespace, cases: Mapping[str, object], looks: Sequence[State] = ()) -> None:
    """Prints a line for each case; saves them with the machine and what was asked for, and what the memory gave at
    `looks`, if any."""
    for name, found in cases.items():
        print(f"{name}: {found}")
    memory = {name: [look[name] for look in looks] for name in (looks[0] if looks else ())}
    if memory:
        print(f"the memory beside them: {memory}")
    if arguments.save:
        words = {name: value for name, value in vars(arguments).items() if name not in ("model", "save")}
        words |= {"memory": memory} if memory else {}
        arguments.save.write_text(json.dumps({"about": about(), **words, "cases": cases}, indent=1) + "\n")
