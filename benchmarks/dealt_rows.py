"""Sums and norms of many rows: dealt among ranks, beside each rank doing all of them.

    python benchmarks/dealt_rows.py [--ranks 2] [--columns 576 2048] [--rows 4 16 ...] [--rounds 15] [--save FILE.json]

What stands behind half a layer, an all_reduce of bf16 sums and a norm that adds them to a residual stream of fp32, as
a step program of 60 of them: once with rows that are never dealt, once with rows that always are, in turns. Ranks are
processes of one thread, pinned to cores of their own where there are enough. Prints microseconds for one of the 60,
medians of rank 0, and dealt / not dealt. Ranks come together here: in a step each meeting waits for whoever is late,
which `beside_commit.py` shows.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from about import about
from built import step_library
from command import at_least, result_file, run_command, whole
from forked_ranks import of_first_rank
from timing import interleaved

from weft.comm.base import Group
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.native.records import (
    DEALT_FROM,
    EPS,
    EXCHANGE,
    MEMBERS,
    NORM_WEIGHT,
    POSITION,
    ExchangeRecord,
    InstructionRecord,
    Op,
    StepRecord,
)
from weft.native.step_library import Pool, Program
from weft.ops.packed import operand

Sizes = Sequence[tuple[int, int]]
"""Rows and columns."""
PAIRS = 60
ALWAYS, NEVER = 1, 1 << 30


def program_of(pool: Pool, comm: SharedMemoryComm, group: Group, rows: int, columns: int, dealt_from: int) -> Program:
    """PAIRS times an all_reduce, a norm and, for rows that are dealt, an all_gather."""
    record, groups = comm.end
    number, position = groups[group]
    sums, normed = (torch.zeros(rows, columns, dtype=torch.bfloat16) for _ in range(2))
    stream, weight = torch.zeros(rows, columns), torch.ones(columns)
    exchange = ExchangeRecord(group=number, members=len(group), position=position)

    def instruction(op: Op, out: torch.Tensor, *inputs: torch.Tensor) -> InstructionRecord:
        one = InstructionRecord(op=op, out=operand(out))
        for index, x in enumerate(inputs):
            one.inputs[index] = operand(x)
        one.n[MEMBERS], one.n[POSITION], one.n[DEALT_FROM] = len(group), position, dealt_from
        one.f[EPS] = 1e-5
        if op is Op.NORM:
            one.p[NORM_WEIGHT] = weight.data_ptr()
        else:
            one.p[EXCHANGE] = ctypes.addressof(exchange)
        return one

    pair = [
        instruction(Op.ALL_REDUCE, sums, sums),
        instruction(Op.NORM, normed, stream, sums),
        instruction(Op.ALL_GATHER, normed, normed),
    ]
    return Program(pool, pair * PAIRS, record, [sums, normed, stream, weight, exchange])


def measure(comm: SharedMemoryComm, group: Group, sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """One case for each number of rows and columns, as this rank sees it."""
    pool, cases = Pool(step_library(), 1), []
    for rows, columns in sizes:
        step = StepRecord()
        step.rows[0] = rows
        ways = {"whole": NEVER, "dealt": ALWAYS}
        programs = {name: program_of(pool, comm, group, rows, columns, first) for name, first in ways.items()}
        calls = {name: (lambda p=program, s=step: p.run(s)) for name, program in programs.items()}
        times = interleaved(calls, rounds, lambda: comm.barrier(group))
        us = {name: round(statistics.median(found) * 1e3 / PAIRS, 2) for name, found in times.items()}
        cases.append({"rows": rows, "columns": columns, "us": us, "ratio": round(us["dealt"] / us["whole"], 3)})
        for program in programs.values():
            program.close()
    pool.close()
    return cases


def run_world(ranks: int, sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """The cases as rank 0 of so many sees them."""
    group = tuple(range(ranks))
    region = SharedMemoryComm.create(ranks, [group])

    def run(rank: int) -> list[dict[str, Any]]:
        comm = SharedMemoryComm(region, rank)
        cases = measure(comm, group, sizes, rounds)
        comm.barrier(group)
        return cases

    cases: list[dict[str, Any]] = of_first_rank(ranks, run)
    region.close()
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=at_least(2), default=2)
    parser.add_argument("--columns", type=whole, nargs="+", default=[576, 2048])
    parser.add_argument("--rows", type=whole, nargs="+", default=[4, 8, 16, 32, 64, 128, 256, 1024])
    parser.add_argument("--rounds", type=whole, default=15)
    parser.add_argument("--save", type=result_file)
    args = parser.parse_args()
    sizes = [(rows, columns) for columns in args.columns for rows in args.rows]
    cases = run_world(args.ranks, sizes, args.rounds)
    for case in cases:
        us = case["us"]
        print(f"{case['rows']:5} rows of {case['columns']}: {us['whole']} us, dealt {us['dealt']}, {case['ratio']:.3f}")
    record = {"benchmark": "dealt_rows", "ranks": args.ranks, "about": about(), "cases": cases}
    if args.save:
        Path(args.save).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
