"""One instruction of a step program at a time, on every variant of the library that this CPU runs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.support.native_libraries import TRIED, built, tried
from weft.base.weight_formats import FORMATS
from weft.compute.native import isa, libraries
from weft.compute.native.records import Dtype, InstructionRecord, OperandRecord, StepRecord, WeightKind
from weft.compute.native.step_library import SPIN_SHARED_NS, Pool, bound
from weft.compute.ops.native.packed import Packing, operand
from weft.compute.ops.operations.declare import OpCode
from weft.compute.ops.weights import FileBlocks
from weft.compute.quant.base import NativeForm, QuantFormat
from weft.compute.quant.registry import format_of

ISAS = isa.runnable()
VARIANTS = tried(ISAS)
"""What every instruction is tried on."""
PACKED_AS = {
    WeightKind.INT8: "int8",
    WeightKind.INT4: "int4",
    WeightKind.INT8G: "Q8_0",
    WeightKind.BF16_12BIT: "lossless_bf16",
}
"""The format that numbers of a kind are packed in."""
THREADS = (1, 2, 3)


@cache
def lib(variant: str) -> ctypes.CDLL:
    """The library built for `variant`; if it is not there yet, it is compiled beside those of `TRIED`."""
    name = f"step-{variant}"
    statuses = {status.name: status for status in built(tuple(dict.fromkeys((*TRIED, name))))}
    path = libraries.find(name)
    assert path is not None, statuses[name].reason
    return bound(ctypes.CDLL(str(path)))


@cache
def pool(variant: str, threads: int) -> Pool:
    return Pool(lib(variant), threads, spin_ns=SPIN_SHARED_NS)


@cache
def packing(variant: str, threads: int = 1) -> Packing:
    return Packing(pool(variant, threads))


def form(kind: WeightKind | None) -> NativeForm | None:
    """In which numbers are packed as `kind`."""
    if kind is None:
        return None
    return format_of(PACKED_AS[kind]).native if kind in PACKED_AS else NativeForm(kind)


def quantized(weight: Tensor, kind: WeightKind, as_bf16: bool = True, peaks: Tensor | None = None) -> Tensor:
    """What the format says that `weight` becomes."""
    found: QuantFormat = format_of(PACKED_AS[kind])
    return found.fake_quantize(weight, as_bf16, peaks)


def raw_blocks(name: str, columns: int, depth: int) -> Tensor:
    """A file's rows in kept blocks, uint8 [columns, blocks, bytes]: any values, normal scales and offsets."""
    row = FORMATS[name]
    raw = torch.randint(0, 256, (columns, -(-depth // row.numbers), row.nbytes), dtype=torch.uint8)
    raw[..., : row.scale_bytes] = torch.randn(*raw.shape[:2], row.scale_bytes // 2).half().view(torch.uint8)
    return raw


def file_blocks(raw: Tensor, name: str, depth: int) -> FileBlocks:
    """Of raw [columns, blocks, bytes] or [columns, bytes of a row]."""
    return FileBlocks(raw.flatten(1), name, depth)


def run(
    variant: str,
    threads: int,
    op: OpCode,
    out: Tensor,
    inputs: Sequence[Tensor | None],
    step: StepRecord | None = None,
    *,
    n: Mapping[Any, int] | None = None,
    f: Mapping[Any, float] | None = None,
    p: Mapping[Any, Tensor | None] | None = None,
    strides: tuple[int, int] = (0, 0),
    exact: bool = False,
) -> Tensor:
    """Runs `op` into `out` [rows, columns] and returns it. An input of None: what the step gives."""
    one = InstructionRecord(op=op, rows=0, exact=int(exact), out=operand(out), cache_stride=strides)
    for index, x in enumerate(inputs):
        one.inputs[index] = _input(x)
    for index, value in (n or {}).items():
        one.n[index] = value
    for index, number in (f or {}).items():
        one.f[index] = number
    for index, tensor in (p or {}).items():
        one.p[index] = None if tensor is None else tensor.data_ptr()
    step = step or StepRecord()
    step.rows[0] = out.shape[0]
    pool(variant, threads).run_one(one, step)
    return out


def _input(x: Tensor | None) -> OperandRecord:
    if x is None:
        return OperandRecord(None, 0, Dtype.I64, 0)
    return OperandRecord(x.data_ptr(), x.stride(0), Dtype.I64, 1) if x.dtype == torch.int64 else operand(x)
