"""One instruction of a step program at a time: its records for ctypes, and running it on a pool of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from weft.native import isa, libraries

OPS = {name: number for number, name in enumerate(("embed", "norm", "linear", "qkv", "attention", "silu_mul"), 1)}
OPS |= {"add": 7, "add_bias": 8, "select": 9}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2, torch.int64: 3}
SPIN = 20_000
ISAS = isa.runnable()
THREADS = (1, 2, 3)


class Operand(ctypes.Structure):
    _fields_ = [
        ("base", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("columns", ctypes.c_int32),
    ]


class Instruction(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("exact", ctypes.c_int32),
        ("name", ctypes.c_int32),
        ("inputs", Operand * 2),
        ("out", Operand),
        ("n", ctypes.c_int32 * 8),
        ("f", ctypes.c_double * 2),
        ("p", ctypes.c_void_p * 6),
        ("cache_stride", ctypes.c_int64 * 2),
    ]


class Step(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_int64 * 64),
        ("ids", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("run_of_row", ctypes.c_void_p),
        ("row_ends", ctypes.c_void_p),
        ("block_tables", ctypes.c_void_p),
        ("runs", ctypes.c_int32),
        ("table_width", ctypes.c_int32),
        ("sampled_rows", ctypes.c_void_p),
        ("starts", ctypes.c_void_p * 2),
    ]


@cache
def library(variant: str) -> ctypes.CDLL:
    path = libraries.find(f"step-{variant}")
    assert path is not None, libraries.missing_reason("step")
    lib = ctypes.CDLL(str(path))
    lib.weft_pool_new.restype = ctypes.c_void_p
    lib.weft_pool_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    lib.weft_run_one.argtypes = [ctypes.c_void_p] * 3
    lib.weft_attention_workspace.restype = ctypes.c_int64
    lib.weft_attention_workspace.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
    return lib


@cache
def pool(variant: str, threads: int) -> int:
    error = ctypes.c_int32(-1)
    handle = library(variant).weft_pool_new(threads, None, SPIN, ctypes.byref(error))
    assert error.value == 0
    return int(handle)


def operand(x: Tensor | None) -> Operand:
    if x is None:
        return Operand(None, 0, DTYPES[torch.int64], 0)
    assert x.dim() == 2 and (x.shape[1] == 1 or x.stride(1) == 1)
    return Operand(x.data_ptr(), x.stride(0), DTYPES[x.dtype], x.shape[1])


def run(
    variant: str,
    threads: int,
    op: str,
    out: Tensor,
    inputs: Sequence[Tensor | None],
    step: Step | None = None,
    *,
    n: dict[int, int] | None = None,
    f: dict[int, float] | None = None,
    p: dict[int, Tensor | None] | None = None,
    strides: tuple[int, int] = (0, 0),
    exact: bool = False,
) -> Tensor:
    """Runs `op` into `out` [rows, columns] and returns it."""
    one = Instruction(op=OPS[op], rows=0, exact=int(exact), out=operand(out), cache_stride=strides)
    for index, x in enumerate(inputs):
        one.inputs[index] = operand(x)
    for index, value in (n or {}).items():
        one.n[index] = value
    for index, number in (f or {}).items():
        one.f[index] = number
    for index, tensor in (p or {}).items():
        one.p[index] = None if tensor is None else tensor.data_ptr()
    step = step or Step()
    step.rows[0] = out.shape[0]
    assert library(variant).weft_run_one(pool(variant, threads), ctypes.byref(one), ctypes.byref(step)) == 0
    return out
