"""Expert balance on recorded loads: the public greedy, this planner, and a bound that no placement can exceed.

OMP_NUM_THREADS=1 python benchmarks/expert_balance.py STATS... [--out FILE.json]: STATS are files with logical_count
[layers][experts]. Prints a table and, for every ordered pair of files, what moving at most 6 % of the slots gives; both
go to FILE.json and, as text, to FILE.md. How the bound is derived: weft/experts/balancing/upper_bound.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from command import result_file, run_command

from weft.experts import LoadBalancer, SlotShape
from weft.experts.balancing.upper_bound import upper_bound
from weft.experts.files.sources import read_loads
from weft.experts.statistics.loads import FloatArray

SHAPES = ((256, 32), (288, 32), (288, 72), (320, 64), (288, 144))
MOVES = SlotShape(256, 288, 32)
MAX_MOVED = 0.06
COLUMNS = ("trace", "slots/ranks", "greedy", "global", "worst layer", "bound", "global / bound", "worst", "cpu s")


def measure(name: str, loads: FloatArray, slots: int, ranks: int) -> dict[str, Any]:
    """One line of the table, means over layers; seconds are CPU time of planning all layers, best of three."""
    shape = SlotShape(loads.shape[1], slots, ranks)
    greedy = LoadBalancer(shape, "greedy").plan(loads).balance
    seconds = []
    for _ in range(3 if slots != 2 * ranks else 1):
        started = time.process_time()
        plan = LoadBalancer(shape, "global").plan(loads)
        seconds.append(time.process_time() - started)
    share = np.array(plan.balance.per_layer) / (bound := upper_bound(loads, shape))
    found = (greedy.mean, plan.balance.mean, plan.balance.min, bound.mean(), share.mean(), share.min(), min(seconds))
    return dict(zip(COLUMNS, (name, f"{slots}/{ranks}", *(round(float(x), 5) for x in found)), strict=True))


def measure_move(old: FloatArray, new: FloatArray) -> dict[str, float]:
    """The plan for `old` under the loads `new`, before and after a repair."""
    current = LoadBalancer(MOVES).plan(old).placement
    plan = LoadBalancer(MOVES, max_moved=MAX_MOVED).plan(new, current)
    assert plan.before is not None and plan.moved_share is not None
    found = {"before": plan.before.mean, "after": plan.balance.mean, "moved share": plan.moved_share}
    return {name: round(value, 4) for name, value in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stats", nargs="+", type=Path)
    parser.add_argument("--out", type=result_file)
    args = parser.parse_args()
    loads = {path.name.split(".")[0]: read_loads(path) for path in args.stats}
    loads = {name: rows[rows.any(axis=1)] for name, rows in loads.items()}
    rows = []
    for name, values in loads.items():
        for slots, ranks in SHAPES:
            rows.append(measure(name, values, slots, ranks))
            print(rows[-1], file=sys.stderr)
    moves = [{"planned for": a, "loads": b, **measure_move(loads[a], loads[b])} for a, b in permutations(loads, 2)]
    command = f"python benchmarks/expert_balance.py {' '.join(path.name for path in args.stats)}"
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    record = {"benchmark": "expert_balance", "command": command, **versions, "balance": rows, "moves": moves}
    head = f"`{command}`; {', '.join(f'{name} {value}' for name, value in versions.items())}"
    moved = f"At most {MAX_MOVED:.0%} of each layer's slots moved, {MOVES.slots} slots on {MOVES.ranks} ranks:"
    text = "\n\n".join((f"# Expert balance\n\n{head}", table(rows), *((moved, table(moves)) if moves else ()))) + "\n"
    print(text)
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    run_command(main)
