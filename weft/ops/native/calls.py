"""A call of one operation of the step library, and the sinks that take it: one runs it now, one adds it to a tape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from weft.native.operations import BLOCK_SIZE, K_CACHE, OPS, PACKED_CACHE, V_CACHE, Op, OpSpec
from weft.native.records import InstructionRecord
from weft.ops.attention import AttentionMeta, KVCache

Handle = Any
"""Rows of a result: a tensor [rows, columns], or what the sink has for one (`Sink.new`)."""


@dataclass(slots=True)
class Call:
    """Rows `inputs` into rows of `out`. The rest by its index in the record: `numbers`, `floats`; `tensors`, which are
    weights, vectors and tables; `buffers`, which are further rows that it reads or writes."""

    op: Op
    out: Handle
    inputs: tuple[Handle, ...]
    numbers: dict[int, int] = field(default_factory=dict)
    floats: dict[int, float] = field(default_factory=dict)
    tensors: dict[int, object] = field(default_factory=dict)
    buffers: dict[int, Handle] = field(default_factory=dict)
    cache: KVCache | None = None
    meta: AttentionMeta | None = None


class Sink(Protocol):
    """What takes calls in order."""

    def new(self, like: Handle, columns: int, dtype: torch.dtype, fold: int = 1) -> Handle:
        """Room for the result of a call: as many rows as `like` has, `fold` times."""

    def emit(self, call: Call) -> None:
        """Takes the call."""


class Described(Protocol):
    """What a record is filled from: a call, or an instruction of a tape."""

    op: Op
    numbers: dict[int, int]
    floats: dict[int, float]
    tensors: dict[int, object]


def fill(record: InstructionRecord, call: Described, address_of: Callable[[object], int | None]) -> None:
    """Numbers, floats, and the addresses of tensors."""
    for index, number in call.numbers.items():
        record.n[index] = number
    for index, value in call.floats.items():
        record.f[index] = value
    for index, tensor in call.tensors.items():
        record.p[index] = address_of(_widened(OPS[call.op], index, tensor, bool(record.exact)))


def _widened(spec: OpSpec, index: int, tensor: object, exact: bool) -> object:
    """A vector in the type in which the kernel computes."""
    if index not in spec.vectors or not isinstance(tensor, Tensor):
        return tensor
    wide = torch.float64 if exact and spec.on_grid else torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(wide).contiguous()


def point_at_cache(record: InstructionRecord, cache: KVCache) -> None:
    """The addresses and strides of its pages, and their order."""
    record.p[K_CACHE], record.p[V_CACHE] = cache.k.data_ptr(), cache.v.data_ptr()
    record.cache_stride[0], record.cache_stride[1] = cache.k.stride(0), cache.k.stride(1)
    record.n[BLOCK_SIZE], record.n[PACKED_CACHE] = cache.k.shape[2], int(cache.packed)
