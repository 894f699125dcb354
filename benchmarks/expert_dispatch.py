"""Dispatch forms against each other: one layer of routed experts over batch sizes, ranks as processes.

OMP_NUM_THREADS=1 python benchmarks/expert_dispatch.py [--worlds 2 4] [--rows 1 8 ..] [--hidden 576 ..] [--out FILE].
Operations one by one, random weights and rows, so choices are near to even. Per form and rows of a rank: the median of
the slowest rank's time for one pass, and the bytes that a rank received in it, beside what `weft explain` says for even
choices. Saved as JSON and, as a table, beside it as Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from typing import Any

import torch
from about import about
from command import at_least, result_file, run_command, whole

from weft.arch import ModelConfig
from weft.arch.config import MoEConfig
from weft.arch.shards import Shards
from weft.comm.backend import groups_of
from weft.comm.metered import MeteredComm
from weft.comm.shm.region import Region
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.explain.traffic import traffic_of
from weft.layers import Experts, Prepare
from weft.layout.resolve import resolve
from weft.layout.rows import RowTable
from weft.models.build import make_dispatcher
from weft.models.dispatch import counted_splits
from weft.models.transitions import Transitions
from weft.ops import make_ops
from weft.ops.base import Numerics

FORMS = ("all_gather", "all_to_all")
COLUMNS = ("world", "rows a rank", "form", "ms", "KiB received", "KiB by explain", "auto takes")


def shards_of(args: argparse.Namespace, world: int, form: str) -> Shards:
    """One layer of experts, dealt over `world` ranks with attention for rows of their own."""
    moe = MoEConfig(num_experts=args.experts, top_k=args.top_k, intermediate_size=args.intermediate)
    config = ModelConfig(
        family="qwen3_moe", hidden_size=args.hidden, intermediate_size=args.intermediate, num_layers=1, num_heads=world,
        num_kv_heads=world, head_dim=16, vocab_size=1024, max_position=128, moe=moe,
    )  # fmt: skip
    layout = resolve({"attention.dp": world, "experts.dispatch": form}, world, num_experts=args.experts)
    return Shards(config, layout)


def experts_of(shards: Shards, rank: int, dtype: torch.dtype) -> Experts:
    """The slots of a rank, with random weights; the router is the same on all."""
    config, slots = shards.config, shards.slots
    assert config.moe is not None and slots is not None
    lo, hi = slots.of_rank(rank)
    hidden, wide = config.hidden_size, config.moe.intermediate_size
    router = torch.randn(config.moe.num_experts, hidden, generator=torch.Generator().manual_seed(0))
    loaded = {
        "layers.0.router.weight": router.to(dtype),
        "layers.0.experts.gate_up.weight": (torch.randn((hi - lo) * 2 * wide, hidden) / hidden**0.5).to(dtype),
        "layers.0.experts.down.weight": (torch.randn((hi - lo) * hidden, wide) / wide**0.5).to(dtype),
    }
    ops = make_ops(Numerics(dtype), "cpu")
    prepare = Prepare(ops, shards, rank)
    params = {name: prepare(name, weight) for name, weight in loaded.items()}
    return Experts(params, "layers.0", config.moe, slots.map(0), (lo, hi), ops)


def run_rank(args: argparse.Namespace, world: int, form: str, region: Region, rank: int, answers: Any) -> None:
    """In a process: [seconds of every pass, bytes of the last] for each number of rows."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    shards, dtype = shards_of(args, world, form), getattr(torch, args.dtype)
    comm = MeteredComm(SharedMemoryComm(region, rank, timeout=60.0))
    dispatcher = make_dispatcher(shards, Transitions(shards.passage.boundaries, comm), counted_splits)
    experts, found = experts_of(shards, rank, dtype), []
    with torch.inference_mode():
        for rows in args.rows:
            table, x = RowTable((rows,) * world), torch.randn(rows, args.hidden).to(dtype)
            seconds = []
            for _ in range(args.passes):
                comm.barrier(tuple(range(world)))
                before, start = comm.received, time.perf_counter()
                dispatcher.run(experts, x, table)
                seconds.append(time.perf_counter() - start)
            found.append((seconds, comm.received - before))
    comm.close()
    answers.put((rank, found))


def measure(args: argparse.Namespace, world: int, form: str) -> list[tuple[float, float]]:
    """(milliseconds, KiB received by the busiest rank) for each number of rows."""
    region = SharedMemoryComm.create(world, groups_of(shards_of(args, world, form)))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    ranks = [
        context.Process(target=run_rank, args=(args, world, form, region, rank, answers), daemon=True)
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    found = dict(answers.get() for _ in ranks)
    for rank in ranks:
        rank.join()
    region.close()
    lines = []
    for place in range(len(args.rows)):
        slowest = [max(times) for times in zip(*(found[rank][place][0] for rank in range(world)), strict=True)]
        received = max(found[rank][place][1] for rank in range(world))
        lines.append((1e3 * statistics.median(slowest[args.passes // 4 :]), received / 1024))
    return lines


def explained(shards: Shards, rows: int, itemsize: int) -> float:
    """KiB that the busiest rank receives in the layer by `weft explain`."""
    traffic = [one for one in traffic_of(shards, itemsize, (rows,)) if one.name.startswith("experts.")]
    return max(
        sum(call.received[0].per_rank[rank] for one in traffic for call in one.calls) / 1024
        for rank in range(shards.layout.stage_size)
    )


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=at_least(2), nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=whole, nargs="+", default=[1, 4, 16, 64, 256])
    for name, default in (("hidden", 576), ("intermediate", 384), ("experts", 16), ("top-k", 2), ("passes", 40)):
        parser.add_argument(f"--{name}", type=whole, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    rows = []
    for world in args.worlds:
        for form in FORMS:
            shards = shards_of(args, world, form)
            auto = shards_of(args, world, "auto").passage.dispatch
            assert auto is not None
            for count, (ms, received) in zip(args.rows, measure(args, world, form), strict=True):
                said = explained(shards, count, getattr(torch, args.dtype).itemsize)
                line = (world, count, form, round(ms, 3), round(received, 1), round(said, 1), auto.form)
                rows.append(dict(zip(COLUMNS, line, strict=True)))
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    given = {name: value for name, value in vars(args).items() if name != "out"}
    if args.out is None:
        return
    args.out.write_text(json.dumps({"about": about(), "given": given, "rows": rows}, indent=1) + "\n")
    cells = [COLUMNS, ("---",) * len(COLUMNS), *(tuple(str(row[name]) for name in COLUMNS) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    args.out.with_suffix(".md").write_text(f"`{about()['command']}`\n\n{table}\n")


if __name__ == "__main__":
    run_command(main)
