"""Decoding a mixture of experts: step programs on packed experts, the same operations one by one, torch's products.

python benchmarks/expert_decode.py [MODEL] [--streams 1 8 32] [--rounds 3] [--ep 1] [--out FILE.json]: MODEL is a
mixture of experts; left out, the embedded model is upcycled first (16 experts, top 2). Every way to run it stands
beside the others, each with its ranks; they take turns, `--rounds` times, and the median is kept. Tokens a second are
of steps that only decode, with the engine and real ranks, without HTTP; prompts of 32 tokens. Saved as JSON and table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from about import about
from command import result_file, run_command, whole

from weft.arch.families import parse_config
from weft.checkpoint import Checkpoint, open_checkpoint
from weft.engine.engine import Engine
from weft.launch.engines import make_engine
from weft.launch_plan.plan import plan_launch
from weft.layout.resolve import resolve
from weft.native.build import ensure_built
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams
from weft.supervisor.start import Starting
from weft.text import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "program, packed": {"moe_backend": "packed"},
    "program, packed int8": {"moe_backend": "packed", "quantization": "int8"},
    "program, packed int4": {"moe_backend": "packed", "quantization": "int4"},
    "one by one, packed": {"moe_backend": "packed", "enforce_eager": True},
    "one by one, torch's grouped": {"moe_backend": "grouped", "enforce_eager": True},
    "one by one, slot by slot": {"moe_backend": "plain", "enforce_eager": True},
}
PROMPT = 32


class Way:
    """One way to run the model: an engine with its ranks."""

    def __init__(
        self, checkpoint: Checkpoint, sizes: dict[str, object], most: int, settings: dict[str, Any], stack: ExitStack
    ) -> None:
        layout = resolve(sizes, num_experts=parse_config(checkpoint.config).num_experts)
        config = EngineConfig(
            max_model_len=2048,
            max_num_seqs=most,
            max_num_batched_tokens=512,
            enable_prefix_caching=False,
            kv_cache_memory=256 << 20,
            **settings,
        )
        starting = Starting(plan_launch(checkpoint, layout, config))
        executor = starting.wait()
        stack.callback(executor.close)
        self.engine: Engine = make_engine(executor, starting.plan, None)
        self._numbers = count()

    def tokens_per_second(self, ids: list[int], streams: int, steps: int) -> float:
        """Of `steps` steps in which each of `streams` requests decodes."""
        names = [str(next(self._numbers)) for _ in range(streams)]
        for name in names:
            start = int(name) * 131 % (len(ids) - PROMPT)
            params = SamplingParams(temperature=0.0, max_tokens=steps + 2 * streams + 64, ignore_eos=True)
            self.engine.add_request(name, ids[start : start + PROMPT], params)
        while (stats := self.engine.stats().total).waiting or stats.running < streams:
            self.engine.step()
        for _ in range(8):
            self.engine.step()
        began = time.perf_counter()
        for _ in range(steps):
            self.engine.step()
        found = steps * streams / (time.perf_counter() - began)
        for name in names:
            self.engine.abort(name)
        while self.engine.has_work:
            self.engine.step()
        return found


def upcycled(folder: Path) -> Path:
    """The embedded model with 16 experts."""
    out = folder / "upcycled"
    recipe = ["--experts", "16", "--top-k", "2", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "weft.cli.main", "upcycle", *recipe], check=True)
    return out


def measure(model: Path, args: argparse.Namespace) -> dict[str, dict[int, list[float]]]:
    """Tokens a second by way and number of streams, one number a round."""
    checkpoint = open_checkpoint(model)
    text = " ".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    ids = Tokenizer.from_checkpoint(checkpoint).encode(text)
    found: dict[str, dict[int, list[float]]] = {name: {n: [] for n in args.streams} for name in args.ways}
    with ExitStack() as stack:
        sizes = {"attention.dp": args.ep, "experts.ep": args.ep, "experts.dispatch": args.dispatch}
        most = -(-max(args.streams) // args.ep)
        ways = {name: Way(checkpoint, sizes, most, WAYS[name], stack) for name in args.ways}
        for turn in range(args.rounds):
            for streams in args.streams:
                for name, way in ways.items():
                    speed = way.tokens_per_second(ids, streams, args.steps)
                    found[name][streams].append(round(speed, 1))
                    print(f"round {turn} {streams:3} streams {name}: {speed:.1f}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[int, list[float]]], streams: list[int]) -> str:
    lines = [["tokens/s", *(f"{n} streams" for n in streams)], ["---"] * (1 + len(streams))]
    lines += [[name, *(f"{statistics.median(of[n]):.1f}" for n in streams)] for name, of in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--streams", type=whole, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--steps", type=whole, default=40, help="of each measurement")
    parser.add_argument("--ep", type=whole, default=1, help="ranks; attention dp is as large")
    parser.add_argument("--dispatch", choices=("auto", "all_gather", "all_to_all"), default="auto")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    ensure_built()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.model or upcycled(Path(folder)), args)
    said = table(found, args.streams)
    print(said)
    record = {
        "benchmark": "expert_decode",
        **about(),
        "ep": args.ep,
        "dispatch": args.dispatch,
        "tokens_per_second": found,
    }
    if args.out is None:
        return
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(f"`{record['command']}`\n\n{said}\n")


if __name__ == "__main__":
    run_command(main)
