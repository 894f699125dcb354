"""How near two ranks of one thread each can come to one rank of two threads, by profiles that were saved.

    python benchmarks/rank_bound.py [--one FILE] [--two FILE] [--collectives FILE] [--alone FILE] [--save FILE.json]

Reads what `step_profile.py` saved of one rank and of two, and `comm_latency.py`, all of one machine. What two ranks do
beyond what one does, as shares of a step: norms, which both compute, and with them the addition to the residual stream,
which one rank makes in its products; and what all_reduces take for their bytes when nobody is late, beyond one of 64
bytes, which is mostly the call from Python. The bound is the step over the step with these, if cores never waited for
each other; whose heads are more does not count in it, for ranks lend each other their cores.

`--alone` is a profile of one rank of one thread. Where there are no more cores than threads, the engine's Python takes
one of them. The other thread of one rank goes on meanwhile, as fast as it is alone; the other one of two ranks waits at
their next sum. So a step of two ranks takes longer by what it would have done: that is `engine`, and `with_engine` what
is left with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.about import about
from benchmarks.command import result_file, run_command
from weft.arch import parse_config
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub.paths import model_path

RESULTS = Path(__file__).parent / "results"
ROWS = {"1 stream": 1, "8 streams": 8, "32 streams": 32, "prefill 1024": 1024}
ITEM = 2
"""Bytes of bf16."""


def bytes_us(collectives: dict[str, Any], nbytes: int) -> float:
    """Of an all_reduce of two ranks in shared memory, between the sizes that were measured, less the smallest."""
    found = [each for each in collectives["cases"] if (each["kind"], each["ranks"]) == ("all_reduce", 2)]
    sizes, us = zip(*((each["bytes"], each["shared_memory"]["p50_us"]) for each in found), strict=True)
    return float(np.interp(nbytes, sizes, us) - us[0])


def norms_us(profile: dict[str, Any]) -> float:
    """Of a step."""
    return float(sum(row["us"] for name, row in profile.items() if name.startswith("norm")))


def bound(
    case: str,
    one: dict[str, Any],
    two: dict[str, Any],
    collectives: dict[str, Any],
    single: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Shares of a case's step, and what they leave. `single`: of one rank of one thread."""
    hidden = parse_config(open_checkpoint(model_path(None)).config).hidden_size
    alone, ranks = one["cases"][case], [two["cases"][f"{case}, rank {rank}"] for rank in range(2)]
    reduce = bytes_us(collectives, ROWS[case] * hidden * ITEM)
    more_us = {
        "norms": sum(map(norms_us, ranks)) / len(ranks) - norms_us(alone),
        "sums": ranks[0]["all_reduce"]["calls"] * reduce,
    }
    parts = {name: us / alone["whole step"]["us"] for name, us in more_us.items()}
    found = {name: round(share, 4) for name, share in parts.items()} | {"bound": _left(*parts.values())}
    if single is None:
        return found
    rate = alone["whole step"]["us"] / single["cases"][case]["whole step"]["us"]
    engine = alone["scheduler"]["us"] * rate / alone["whole step"]["us"]
    return found | {"engine": round(engine, 4), "with_engine": _left(*parts.values(), engine)}


def _left(*parts: float) -> float:
    """Of the speed, where a step takes longer by these shares."""
    return round(1 / (1 + sum(parts)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=Path, default=RESULTS / "step_profile_xeon.json", help="a profile of one rank")
    parser.add_argument("--two", type=Path, default=RESULTS / "step_profile_xeon_tp2.json", help="of two")
    parser.add_argument("--collectives", type=Path, default=RESULTS / "comm_latency.json", help="latencies")
    parser.add_argument("--alone", type=Path, help="a profile of one rank of one thread")
    parser.add_argument("--save", type=result_file, help="write the cases to this JSON file")
    arguments = parser.parse_args()
    paths = [path for path in (arguments.one, arguments.two, arguments.collectives, arguments.alone) if path]
    profiles = [json.loads(path.read_text()) for path in paths]
    cases = {case: bound(case, *profiles) for case in ROWS}
    for case, found in cases.items():
        print(f"{case}: {found}")
    if arguments.save:
        sources = [path.name for path in paths]
        arguments.save.write_text(json.dumps({"about": about(), "of": sources, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
