"""How long a model's weights take to be read and packed: this working copy beside a commit of it, in turns.

    python benchmarks/loading.py COMMIT [--form llama-1b] [--threads N] [--rounds 5] [--save FILE.json]

Every load is a process of its own, which has read the file once before, as a rank loads it: torch is imported, nothing
else is counted. `load`: seconds until all parameters are there, in bf16 as this CPU keeps it by itself. `pack`:
nanoseconds a number of one thread, for a matrix of 2,048 by 8,192 in 12 bits, the best of five. Medians, and the
commit's over this one's. Nothing of the commit is used but how weights are loaded and packed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.beside_commit import ROOT, checked_out, of_tree
from benchmarks.command import run_command, whole
from benchmarks.forms import FORMS, write_form
from benchmarks.offline_engine import options, tell
from weft.errors import WeftError

DRIVER = """
import json, pathlib, sys, time
import torch, weft
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.layers import Prepare
from weft.layout.resolve import resolve
from weft.native.records import WeightKind
from weft.native.step_library import Pool, open_library
from weft.ops import Numerics, make_ops
from weft.ops.packed import Packing
from weft.weights.loader import load_params
tree, model, threads = sys.argv[1:]
assert pathlib.Path(weft.__file__).is_relative_to(tree), weft.__file__
torch.set_num_threads(int(threads))
checkpoint = open_checkpoint(pathlib.Path(model))
shards = Shards(parse_config(checkpoint.config), resolve({}))
ops = make_ops(Numerics(torch.bfloat16), "cpu")
began = time.perf_counter()
params = load_params(checkpoint, shards.specs, shards, 0, torch.bfloat16, prepare=Prepare(ops, shards, 0)).params
load, packing, times = time.perf_counter() - began, Packing(Pool(open_library(), 1)), []
del params
weight = (0.02 * torch.randn(2048, 8192)).bfloat16()
for _ in range(5):
    began = time.perf_counter()
    packing.pack(weight, WeightKind.BF12)
    times.append(time.perf_counter() - began)
print(json.dumps({"load": load, "pack": 1e9 * min(times) / weight.numel()}))
"""


def once(folder: Path, model: Path, threads: int) -> dict[str, float]:
    """One process of the code in `folder`."""
    words = [sys.executable, "-c", DRIVER, str(folder), str(model), str(threads)]
    done = subprocess.run(words, cwd=folder, env=of_tree(folder), capture_output=True, text=True)
    if done.returncode:
        raise WeftError(f"the code in {folder}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("commit")
    parser.add_argument("--form", choices=FORMS, default="llama-1b")
    parser.add_argument("--threads", type=whole, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=whole, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, checked_out(arguments.commit) as folder:
        model = Path(scratch) / arguments.form
        write_form(model, arguments.form, "cpu")
        trees = {arguments.commit: folder, "this one": ROOT}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for turn in range(arguments.rounds + 1):
            for name in list(trees)[:: 1 if turn % 2 else -1]:
                taken[name].append(once(trees[name], model, arguments.threads))
    medians = {
        name: {what: round(statistics.median(each[what] for each in found[1:]), 3) for what in ("load", "pack")}
        for name, found in taken.items()
    }
    before, now = medians.values()
    tell(arguments, {**medians, "ratio": {what: round(before[what] / now[what], 2) for what in before}})


if __name__ == "__main__":
    run_command(main)
