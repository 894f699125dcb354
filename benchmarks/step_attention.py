"""Attention and cache writes of the step library, layer after layer over cold caches, for several block sizes.

python benchmarks/step_attention.py [--threads N] [--blocks 16 32 64] [--out FILE.json]: SmolLM2-135M's heads (9 query,
3 KV, 64 wide), 30 layers with a cache each, milliseconds for all layers, best and median, and of each round the time
beside that of the first size, median. Sizes take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from about import about
from built import step_library
from command import result_file, run_command, whole
from timing import Call, best_and_median, interleaved
from torch import Tensor

from weft.native.isa import chosen
from weft.native.records import Dtype, InstructionRecord, OperandRecord, StepRecord
from weft.native.step_library import Pool

HEADS, KV_HEADS, DIM, LAYERS = 9, 3, 64, 30
QKV, ATTENTION = 4, 5
CASES = {
    "decode, 1 stream of 256": [(255, 1)],
    "decode, 1 stream of 4096": [(4095, 1)],
    "decode, 1 stream of 8192": [(8191, 1)],
    "decode, 32 streams of 256": [(255, 1)] * 32,
    "prefill of 1024": [(0, 1024)],
    "chunk of 256 after 768 beside 8 streams of 256": [(768, 256), *[(255, 1)] * 8],
}
DTYPES = {torch.float32: Dtype.F32, torch.bfloat16: Dtype.BF16}


class Layers:
    """The instructions of all layers for one step; keeps what they point to."""

    def __init__(self, runs: list[tuple[int, int]], block: int, pool: Pool) -> None:
        counts = [-(-(start + rows) // block) for start, rows in runs]
        order = torch.randperm(sum(counts)) + 1
        tables = torch.zeros(len(runs), max(counts), dtype=torch.int32)
        begin = 0
        for index, count in enumerate(counts):
            tables[index, :count] = order[begin : begin + count]
            begin += count
        rows = torch.tensor([rows for _, rows in runs])
        positions = torch.cat([torch.arange(start, start + count) for start, count in runs])
        owner = torch.repeat_interleave(torch.arange(len(runs)), rows)
        slots = tables[owner, positions // block] * block + positions % block
        self.keeps: list[Tensor] = [positions.int(), slots.int(), owner.int(), rows.cumsum(0).int(), tables]
        self.step = StepRecord()
        self.step.rows[0], self.step.runs, self.step.table_width = len(positions), len(runs), tables.shape[1]
        names = ("positions", "slots", "run_of_row", "row_ends", "block_tables")
        for name, tensor in zip(names, self.keeps, strict=True):
            setattr(self.step, name, tensor.data_ptr())
        shape = (sum(counts) + 1, KV_HEADS, block, DIM)
        nbytes, chunks = pool.attention_workspace(max(start + count for start, count in runs), DIM)
        self.x, self.q = torch.randn(len(positions), (HEADS + 2 * KV_HEADS) * DIM), self.rows_of(len(positions))
        self.out, self.workspace = self.rows_of(len(positions)), torch.zeros(nbytes, dtype=torch.uint8)
        self.cos_sin = torch.randn(max(start + count for start, count in runs), DIM)
        self.kv_of_head = torch.arange(HEADS, dtype=torch.int32) // (HEADS // KV_HEADS)
        self.writes, self.reads = [], []
        for _ in range(LAYERS):
            cache = [torch.randn(shape).bfloat16() for _ in range(2)]
            self.keeps += cache
            self.writes.append(self.record(QKV, self.x, self.q, cache, self.cos_sin, 0))
            self.reads.append(self.record(ATTENTION, self.q, self.out, cache, self.workspace, chunks))

    @staticmethod
    def rows_of(rows: int) -> Tensor:
        """q, or what attention gives."""
        return torch.zeros(rows, HEADS * DIM, dtype=torch.bfloat16)

    def record(
        self, op: int, given: Tensor, out: Tensor, cache: list[Tensor], third: Tensor, chunks: int
    ) -> InstructionRecord:
        """One layer's; `third`: what p[3] points to."""
        one = InstructionRecord(op=op, out=operand(out))
        one.inputs[0] = operand(given)
        for index, number in enumerate((HEADS, KV_HEADS, DIM, cache[0].shape[2], 0, DIM, 1, chunks)):
            one.n[index] = number
        one.f[1] = DIM**-0.5
        for index, tensor in enumerate((*cache, self.kv_of_head, third)):
            one.p[index] = tensor.data_ptr()
        one.cache_stride[0], one.cache_stride[1] = cache[0].stride(0), cache[0].stride(1)
        return one


def operand(x: Tensor) -> OperandRecord:
    return OperandRecord(x.data_ptr(), x.stride(0), int(DTYPES[x.dtype]), x.shape[1])


def measure(layers: dict[int, Layers], pool: Pool, rounds: int) -> dict[int, dict[str, dict[str, float]]]:
    """Milliseconds of all layers, cache writes and attention, by block size; cold caches in every round."""
    cold = torch.zeros(48 << 20, dtype=torch.uint8)

    def call(records: list[InstructionRecord], step: StepRecord) -> Call:
        def run() -> None:
            for record in records:
                pool.run_one(record, step)

        return run

    calls = {f"qkv {block}": call(each.writes, each.step) for block, each in layers.items()}
    calls |= {f"attention {block}": call(each.reads, each.step) for block, each in layers.items()}
    times = interleaved(calls, rounds, lambda: cold.add_(1))

    def told(what: str, block: int) -> dict[str, float]:
        found, first = times[f"{what} {block}"], times[f"{what} {next(iter(layers))}"]
        ratio = statistics.median(mine / other for mine, other in zip(found, first, strict=True))
        return {**best_and_median(found, 4), "beside the first": round(ratio, 3)}

    return {block: {what: told(what, block) for what in ("qkv", "attention")} for block in layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--blocks", type=whole, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=whole, default=15)
    parser.add_argument("--out", type=result_file)
    args = parser.parse_args()
    torch.manual_seed(0)
    pool = Pool(step_library(), args.threads)
    results: dict[str, dict[str, Any]] = {}
    for name, runs in CASES.items():
        found = measure({block: Layers(runs, block, pool) for block in args.blocks}, pool, args.rounds)
        for block, both in found.items():
            results.setdefault(name, {})[f"block {block}"] = both
            shown = ", ".join(f"{what} {ms['best']:.3f} ({ms['median']:.3f})" for what, ms in both.items())
            ratio = both["attention"]["beside the first"]
            print(f"{name}, blocks of {block}: ms for {LAYERS} layers, best (median): {shown}; {ratio}", flush=True)
    record = {
        "benchmark": "step_attention",
        "unit": f"ms for {LAYERS} layers",
        "heads": [HEADS, KV_HEADS, DIM],
        "threads": args.threads,
        "instruction_set": chosen(),
        "rounds": args.rounds,
        "about": about(),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    pool.close()


if __name__ == "__main__":
    run_command(main)
