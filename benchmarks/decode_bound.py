"""How near a decode step comes to what reading its bytes takes: a step, a plain read of the same weights, in turns.

    python benchmarks/decode_bound.py [--model DIR] [--threads N] [--quantization Q [--activations int8]] [--steps 400]
                                      [--save FILE.json]

A virtual machine's memory changes its speed within seconds, so every step is compared with the read right before it
and the one right behind it: the bound is their mean, longer by the share of keys and values, and the figure is bound
over step, median and quartiles. A step is the engine's, scheduler and sampling included, one rank in this process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.offline_engine import options, quantile, tell
from benchmarks.step_subject import OneRank
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub import model_path
from weft.engine.engine import Engine
from weft.native.build import find_compiler
from weft.native.records import WEIGHT, Op
from weft.ops.packed import PackedWeight
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams

PROMPT, BLOCK_SIZE = 128, 16
SETTLE_S = 0.002
"""Threads of a step have gone to sleep after it."""


def reader(weights: Sequence[PackedWeight], cores: Sequence[int]) -> Callable[[], float]:
    """Reads all parts of `weights` once; microseconds."""
    parts = [part for weight in weights for part in (weight.data, weight.scale, weight.offset) if part.nbytes]
    buffers = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    sizes = (ctypes.c_int64 * len(parts))(*(part.nbytes for part in parts))
    with tempfile.TemporaryDirectory() as folder:
        made, source = Path(folder) / "read.so", Path(__file__).with_name("read_weights.cpp")
        flags = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
        subprocess.run([*(find_compiler() or ("g++",)), *flags, str(source), "-o", str(made)], check=True)
        library = ctypes.CDLL(str(made))
    library.read_us.restype = ctypes.c_double
    places = (ctypes.c_int * len(cores))(*cores)
    return lambda: float(library.read_us(buffers, sizes, len(parts), places, len(cores)))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of microseconds and of the share, with its quartiles."""
    length = PROMPT + arguments.steps + 1
    settings = EngineConfig(
        max_model_len=length,
        max_num_seqs=1,
        enable_prefix_caching=False,
        block_size=BLOCK_SIZE,
        dtype="bfloat16",
        quantization=arguments.quantization,
        activations=arguments.activations,
    )
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    one = OneRank(open_checkpoint(model_path(arguments.model)), settings, arguments.threads, length // BLOCK_SIZE + 2)
    assert one.runner.program is not None, one.runner.why_eager
    code = one.runner.program.program.instructions
    weights = [each.tensors[WEIGHT] for each in code if each.op is Op.LINEAR]
    packed = [weight for weight in weights if isinstance(weight, PackedWeight)]
    read, nbytes = reader(packed, cores), sum(weight.nbytes for weight in packed)
    engine = Engine(one, settings, ())
    params = SamplingParams(max_tokens=arguments.steps, temperature=0.0, ignore_eos=True)
    engine.add_request("one", [31 * place % 49_000 for place in range(PROMPT)], params)
    engine.step()
    steps, reads, shares = [], [read()], []
    while engine.has_work:
        time.sleep(SETTLE_S)
        began = time.perf_counter()
        engine.step()
        steps.append((time.perf_counter() - began) * 1e6)
        time.sleep(SETTLE_S)
        reads.append(read())
        context = (PROMPT + len(steps)) * one.kv_bytes
        shares.append((reads[-2] + reads[-1]) / 2 * (1 + context / nbytes) / steps[-1])
    one.close()
    return {
        "weights_mb": round(nbytes / 1e6, 1),
        "read_gb_per_s": round(nbytes / statistics.median(reads) / 1e3, 1),
        "step_us": round(statistics.median(steps)),
        "share_of_bound": round(statistics.median(shares), 3),
        "share_q1": round(quantile(shares, 0.25), 3),
        "share_q3": round(quantile(shares, 0.75), 3),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--activations", choices=("full", "int8"), default="full")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    tell(arguments, {"decode, one stream": measure(arguments)})


if __name__ == "__main__":
    main()
