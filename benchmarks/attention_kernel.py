"""Paged attention: the C++ kernel against gathering keys for torch's SDPA, and against the torch twin.

python benchmarks/attention_kernel.py [--threads N] [--out FILE.json]: SmolLM2-135M's heads (9 query, 3 KV, 64 wide),
one layer, milliseconds a call, best and median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from about import about
from torch import Tensor

from weft.ops.base import AttentionMeta, KVCache
from weft.ops.native_kernels import AttentionKernel
from weft.ops.paged_attention import paged_attention

HEADS, KV_HEADS, DIM, BLOCK = 9, 3, 64, 16
CASES = {
    "decode, 1 sequence of 1000": [(999, 1)],
    "decode, 8 sequences of 1000": [(999, 1)] * 8,
    "decode, 32 sequences of 1000": [(999, 1)] * 32,
    "prefill of 1024": [(0, 1024)],
    "chunk of 256 after 768": [(768, 256)],
}
Runs = list[tuple[int, int]]


def build(runs: Runs, dtype: torch.dtype) -> tuple[Tensor, KVCache, AttentionMeta]:
    """q, a cache in shuffled blocks, and where the rows stand; runs are (first position, rows)."""
    blocks = [-(-(start + rows) // BLOCK) for start, rows in runs]
    order = torch.randperm(sum(blocks)) + 1
    shape = (sum(blocks) + 1, KV_HEADS, BLOCK, DIM)
    cache = KVCache(torch.randn(shape).to(dtype), torch.randn(shape).to(dtype))
    tables = torch.zeros(len(runs), max(blocks), dtype=torch.int32)
    begin = 0
    for index, count in enumerate(blocks):
        tables[index, :count] = order[begin : begin + count]
        begin += count
    rows = torch.tensor([rows for _, rows in runs])
    positions = torch.cat([torch.arange(start, start + rows) for start, rows in runs])
    owner = torch.repeat_interleave(torch.arange(len(runs)), rows)
    slots = tables[owner, positions // BLOCK] * BLOCK + positions % BLOCK
    meta = AttentionMeta(positions.int(), slots.int(), owner.int(), tables, tuple(rows.cumsum(0).tolist()))
    return torch.randn(len(positions), HEADS, DIM).to(dtype), cache, meta


def gather_and_sdpa(q: Tensor, cache: KVCache, runs: Runs, meta: AttentionMeta) -> Tensor:
    """What an engine without a kernel does, run by run."""
    out, begin = [], 0
    for index, (start, rows) in enumerate(runs):
        length = start + rows
        table = meta.block_tables[index, : -(-length // BLOCK)].long()
        k, v = (x[table].transpose(0, 1).reshape(KV_HEADS, -1, DIM)[:, :length] for x in (cache.k, cache.v))
        mask = None
        if rows > 1 and start:
            mask = torch.arange(length) <= torch.arange(start, length)[:, None]
        mine = q[begin : begin + rows].transpose(0, 1)
        causal = rows > 1 and not start
        out.append(
            F.scaled_dot_product_attention(
                mine[None], k[None], v[None], attn_mask=mask, is_causal=causal, enable_gqa=True
            )[0]
        )
        begin += rows
    return torch.cat([x.transpose(0, 1).reshape(-1, HEADS * DIM) for x in out])


def measure(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, in interleaved rounds after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if index:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: {"best": round(min(t), 4), "median": round(statistics.median(t), 4)} for name, t in times.items()}


def run_case(runs: Runs, dtype: torch.dtype, rounds: int) -> dict[str, dict[str, float]]:
    q, cache, meta = build(runs, dtype)
    kernel = AttentionKernel.find(dtype)
    if kernel is None:
        raise SystemExit("the C++ kernel is not built: python -m weft.native.build")
    heads = torch.arange(HEADS, dtype=torch.int32) // (HEADS // KV_HEADS)
    scale = DIM**-0.5
    calls: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: kernel(q, cache, heads, scale, meta, 0),
        "gather + SDPA": lambda: gather_and_sdpa(q, cache, runs, meta),
        "torch twin": lambda: paged_attention(q, cache, heads, scale, meta, 0),
    }
    wanted = gather_and_sdpa(q, cache, runs, meta).float()
    for name, call in calls.items():
        if not torch.allclose(call().float(), wanted, rtol=0, atol=3e-2 if dtype == torch.bfloat16 else 1e-4):
            raise SystemExit(f"{name} gives other numbers")
    return measure(calls, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, runs in CASES.items():
            found = run_case(runs, dtype, args.rounds)
            results.setdefault(str(dtype).removeprefix("torch."), {})[name] = found
            shown = ", ".join(f"{what} {ms['best']:.3f} ({ms['median']:.3f})" for what, ms in found.items())
            print(f"{dtype} {name}: ms best (median): {shown}")
    record = {
        "benchmark": "attention_kernel",
        "unit": "ms per call of one layer",
        "heads": [HEADS, KV_HEADS, DIM],
        "threads": args.threads,
        "rounds": args.rounds,
        "about": about(),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
