"""What balancing experts while serving costs and brings: skewed routing, two ranks, with and without it.

    python benchmarks/server/expert_serving.py [MODEL] [--slots 20] [--steps 120] [--out FILE.json]

MODEL is a mixture of experts; left out, the embedded model is upcycled first (16 experts, top 2, skew zipf:1.2). Both
runs do the same: prompts, then steps that only decode. In the second, the placement is planned after the first
`--steps` steps and moves under running requests. Step times are the engine's, with real ranks, without HTTP; prefills
are left out of them. Saved as JSON, and as a table beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.compute.native.build import ensure_built
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.frontend.serving.engines import balancing_of, make_engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch.families import parse_config
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.start import Starting

ROOT = Path(__file__).resolve().parents[2]
QUIET, MOVE, SWITCH = "quiet", "move", "switch"
COLUMNS = ("run", "balance", "decode tokens/s", "prefill tokens/s", "median step ms", "p95 step ms", "worst step ms")


@dataclass
class Timed:
    """The ranks, and what the last step did beside its rows."""

    inner: ProcessExecutor
    kind: str = QUIET
    rows: int = 0

    @property
    def layout(self) -> Layout:
        return self.inner.layout

    @property
    def num_blocks(self) -> int:
        return self.inner.num_blocks

    def step(self, plan: StepPlan) -> StepResult:
        work = plan.experts
        self.kind = QUIET if work is None else SWITCH if work.switches else MOVE
        self.rows = sum(group.num_rows for group in plan.groups)
        return self.inner.step(plan)

    def expert_counts(self) -> IntArray:
        return self.inner.expert_counts()

    def close(self) -> None:
        self.inner.close()


@dataclass
class Phase:
    """Times of steps that only decode, by what else they did; tokens they gave."""

    times: dict[str, list[float]] = field(default_factory=lambda: {QUIET: [], MOVE: [], SWITCH: []})
    tokens: int = 0

    @property
    def all(self) -> list[float]:
        return [seconds for times in self.times.values() for seconds in times]


class Bench:
    """One engine under load; `numbers` name the requests."""

    def __init__(self, engine: Engine, ranks: Timed, ids: list[int], streams: int) -> None:
        self.engine, self.ranks, self.ids, self.streams = engine, ranks, ids, streams
        self.numbers = count()

    def add(self, prompt: int, tokens: int) -> None:
        number = next(self.numbers)
        start = number * 131 % (len(self.ids) - prompt)
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        self.engine.add_request(str(number), self.ids[start : start + prompt], params)

    def fill(self) -> None:
        """As many streams as the measurement has, with their prompts computed."""
        while (stats := self.engine.stats().total).running + stats.waiting < self.streams:
            self.add(32, 4096)
        while self.engine.stats().total.waiting or self.ranks.rows != self.streams:
            self.engine.step()

    def step(self, phase: Phase) -> None:
        began = time.perf_counter()
        self.engine.step()
        phase.times[self.ranks.kind].append(time.perf_counter() - began)
        phase.tokens += self.ranks.rows

    def decode(self, steps: int) -> Phase:
        phase = Phase()
        for _ in range(steps):
            self.step(phase)
        return phase

    def until_moved(self, most: int) -> Phase:
        """Until a new placement is in force everywhere, `most` steps at the latest."""
        phase = Phase()
        for _ in range(most):
            self.step(phase)
            experts = self.engine.stats().experts
            if experts is not None and experts.layers_switched and not experts.layers_moving:
                break
        return phase

    def prefill(self, prompts: int, tokens: int) -> float:
        """Prompt tokens a second, the streams paused by their end."""
        for number in range(next(self.numbers)):
            self.engine.abort(str(number))
        self.engine.step()
        for _ in range(prompts):
            self.add(tokens, 1)
        began = time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        return prompts * tokens / (time.perf_counter() - began)


def row(name: str, phase: Phase, prefill: float | None, balance: float | None) -> dict[str, Any]:
    times = sorted(phase.all)
    return {
        "run": name,
        "balance": None if balance is None else round(balance, 4),
        "decode tokens/s": round(phase.tokens / sum(times), 1),
        "prefill tokens/s": None if prefill is None else round(prefill, 1),
        "median step ms": round(1e3 * statistics.median(times), 2),
        "p95 step ms": round(1e3 * times[int(0.95 * (len(times) - 1))], 2),
        "worst step ms": round(1e3 * times[-1], 2),
    }


def run(model: Path, args: argparse.Namespace, *, balanced: bool) -> dict[str, Any]:
    """One server's life."""
    checkpoint = open_checkpoint(model)
    given: dict[str, object] = {"attention.dp": 2, "experts.ep": 2, "experts.slots": args.slots}
    if balanced:
        given |= {"experts.balance.policy": "auto", "experts.balance.interval": args.steps}
    layout = resolve(given, num_experts=parse_config(checkpoint.config).num_experts)
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            max_model_len=4200,
            max_num_seqs=args.streams,
            enable_prefix_caching=False,
            expert_stats=None if balanced else str(Path(folder) / "stats.json"),
            eplb_bytes_per_step=args.bytes_per_step,
        )
        plan = plan_launch(checkpoint, layout, config)
        balancing = balancing_of(plan)
        starting = Starting(plan)
        executor = starting.wait()
        try:
            ranks = Timed(executor)
            engine = make_engine(ranks, starting.plan, balancing)
            text = " ".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
            return measure(Bench(engine, ranks, Tokenizer.from_checkpoint(checkpoint).encode(text), args.streams), args)
        finally:
            if balancing is not None:
                balancing.close()
            executor.close()


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """The phases of one run. What is compared has the same number of rows in every step."""
    prefill = bench.prefill(*args.prefill)
    bench.fill()
    say("decoding as the experts were dealt")
    before = bench.decode(args.steps)
    say("until the placement has moved")
    moving = bench.until_moved(40 * args.steps if balances(bench) else args.steps)
    seen = bench.engine.stats().experts
    say("decoding then")
    after = bench.decode(args.steps)
    again = bench.prefill(*args.prefill)
    stats = bench.engine.stats().experts
    assert seen is not None and stats is not None
    name = "balanced" if balances(bench) else "as dealt"
    rows = [row(f"{name}, first {args.steps} steps", before, prefill, mean(seen.before))]
    rows.append(row(f"{name}, {len(moving.all)} steps until moved", moving, None, None))
    rows.append(row(f"{name}, {args.steps} steps then", after, again, mean(seen.now)))
    found: dict[str, Any] = {"rows": rows}
    if balances(bench):
        quiet = statistics.median(before.all)
        for kind in (MOVE, SWITCH):
            times = moving.times[kind]
            if times:
                found[kind] = {
                    "steps": len(times),
                    "median / quiet median": round(statistics.median(times) / quiet, 2),
                    "worst / quiet median": round(max(times) / quiet, 2),
                }
        found["worst quiet / quiet median"] = round(max(before.all) / quiet, 2)
        found["moved"] = {"slots": stats.slots_moved, "bytes": stats.bytes_moved, "layers": stats.layers_switched}
    return found


def balances(bench: Bench) -> bool:
    assert bench.engine.balancing is not None
    return bench.engine.balancing.settings.balancer is not None


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def table(rows: list[dict[str, Any]]) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [["" if row[column] is None else str(row[column]) for column in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def upcycled(folder: Path) -> Path:
    """The embedded model with 16 experts."""
    out = folder / "upcycled"
    recipe = ["--experts", "16", "--top-k", "2", "--skew", "zipf:1.2", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "weft.cli.main", "upcycle", *recipe], check=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--slots", type=whole, default=20)
    parser.add_argument("--steps", type=whole, default=120, help="of each phase, and between rebalancings")
    parser.add_argument("--streams", type=whole, default=32, help="requests that decode at once")
    parser.add_argument("--prefill", type=whole, nargs=2, default=(16, 256), metavar=("PROMPTS", "TOKENS"))
    parser.add_argument("--bytes-per-step", type=int, default=EngineConfig().eplb_bytes_per_step)
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    ensure_built()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or upcycled(Path(folder))
        runs = {name: run(model, args, balanced=name == "balanced") for name in ("as dealt", "balanced")}
    record = {"benchmark": "expert_serving", **about(), "slots": args.slots, "streams": args.streams, "runs": runs}
    said = table([each for found in runs.values() for each in found["rows"]])
    moves = json.dumps({name: value for name, value in runs["balanced"].items() if name != "rows"})
    print(f"{said}\n{moves}")
    if args.out is None:
        return
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(f"`{record['command']}`\n\n{said}\n\nBeside the steps: `{moves}`\n")


if __name__ == "__main__":
    run_command(main)
