"""A call of one operation of the step library, and the sinks that take it: one runs it now, one adds it to a tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from weft.compute.native.records import InstructionRecord
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.operations.declare import F, N, OpCode, P

Handle = Any
"""Rows of a result: a tensor [rows, columns], or what the sink has for one (`Sink.new`)."""


@dataclass(slots=True)
class Call:
    """Rows `inputs` into rows of `out`. The rest by its index in the record: `numbers`, `floats`; `tensors`, which are
    weights, vectors and tables; `buffers`, which are further rows that it reads or writes."""

    op: OpCode
    out: Handle
    inputs: tuple[Handle, ...]
    numbers: Mapping[N, int] = field(default_factory=dict)
    floats: Mapping[F, float] = field(default_factory=dict)
    tensors: Mapping[P, object] = field(default_factory=dict)
    buffers: Mapping[P, Handle] = field(default_factory=dict)
    cache: KVCache | None = None
    meta: AttentionMeta | None = None


class Sink(Protocol):
    """What takes calls in order."""

    def new(self, like: Handle, columns: int, dtype: torch.dtype, fold: int = 1) -> Handle:
        """Room for the result of a call: as many rows as `like` has, `fold` times."""

    def beside(self, left: Handle, right: Handle) -> Handle:
        """Rows of `left` and `right`, columns side by side, in the dtype of `right`."""

    def emit(self, call: Call) -> None:
        """Takes the call."""


class Described(Protocol):
    """What a record is filled from: a call, or an instruction of a tape."""

    @property
    def op(self) -> OpCode: ...
    @property
    def numbers(self) -> Mapping[N, int]: ...
    @property
    def floats(self) -> Mapping[F, float]: ...
    @property
    def tensors(self) -> Mapping[P, object]: ...


def fill(record: InstructionRecord, call: Described, address_of: Callable[[object], int | None]) -> None:
    """Numbers, floats, and the addresses of tensors."""
    for n, number in call.numbers.items():
        record.n[n] = number
    for f, value in call.floats.items():
        record.f[f] = value
    for p, tensor in call.tensors.items():
        record.p[p] = address_of(_widened(call.op, p, tensor, bool(record.exact)))


def _widened(op: OpCode, index: P, tensor: object, exact: bool) -> object:
    """A vector in the type in which the kernel computes."""
    if index not in op.vectors or not isinstance(tensor, Tensor):
        return tensor
    wide = torch.float64 if exact and op.on_grid else torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(wide).contiguous()
