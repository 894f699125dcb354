"""An operation is declared once, and its call is written once: here one in one file, with its twin and its kernel.

What this proves: a number, a spec and a function that makes the call are all that both sinks need. The one runs it, the
other adds it to a tape; both fill the same record from it, vectors widened as the spec says. The kernel is Python that
reads the record as C++ would, so nothing is compiled: the C++ header is generated from the declaration.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from weft.native.operations import OPS, OpSpec
from weft.native.records import InstructionRecord, StepRecord
from weft.native.step_library import Pool
from weft.ops.native.calls import Call, Handle, Sink, fill
from weft.ops.native.immediate import Immediate
from weft.ops.native.packed import operand
from weft.program.ir import Buffer, Rows
from weft.program.tape import Tape


class Toy(IntEnum):
    """Numbers that no operation has."""

    SHIFT = 200


COLUMNS, SHIFT = 3, 2
"""Indices of its number and of its vector."""
SPEC = OpSpec("out[r] = f[0] * in0[r] + p[SHIFT]", "toy_shift", (SHIFT,))


def twin(x: Tensor, vector: Tensor, factor: float) -> Tensor:
    return x * factor + vector.float()


def shifted(sink: Sink, x: Handle, columns: int, vector: Tensor, factor: float) -> Handle:
    """The call, for either sink."""
    out = sink.new(x, columns, torch.float32)
    sink.emit(Call(cast(Any, Toy.SHIFT), out, (x,), {COLUMNS: columns}, {0: factor}, {SHIFT: vector}))
    return out


def kernel(record: InstructionRecord, step: StepRecord) -> None:
    """As C++ would: by addresses alone."""
    assert record.op == Toy.SHIFT
    columns, rows = record.n[COLUMNS], step.rows[record.rows]

    def floats(address: int, count: int) -> Tensor:
        return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)

    vector = floats(record.p[SHIFT], columns)
    for row in range(rows):
        given = floats(record.inputs[0].base + 4 * row * record.inputs[0].stride, columns)
        floats(record.out.base + 4 * row * record.out.stride, columns).copy_(given * record.f[0] + vector)


class FakePool:
    """Runs the toy's kernel, and keeps the record."""

    def run_one(self, record: InstructionRecord, step: StepRecord) -> None:
        self.record = record
        kernel(record, step)


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(cast(dict[Any, OpSpec], OPS), Toy.SHIFT, SPEC)
    yield


X, VECTOR, FACTOR = torch.arange(15.0).view(3, 5), torch.tensor([1, -2, 3, 0.5, 4]).bfloat16(), 0.25


def test_a_call_runs_at_once() -> None:
    out = shifted(Immediate(cast(Pool, FakePool())), X, 5, VECTOR, FACTOR)
    assert torch.equal(out, twin(X, VECTOR, FACTOR))


def test_a_call_goes_on_a_tape_and_fills_the_same_record() -> None:
    pool, tape = FakePool(), Tape({})
    shifted(Immediate(cast(Pool, pool)), X, 5, VECTOR, FACTOR)
    tape.module = "toy"
    rows = Rows("rows", 0, 1)
    out = shifted(tape, tape.tensor(Buffer(rows, 5, torch.float32)), 5, VECTOR, FACTOR)
    (instruction,) = tape.instructions
    assert instruction.op == Toy.SHIFT and instruction.module == "toy"
    assert tape.view(out) == instruction.out and instruction.out.buffer.rows == rows
    kept: list[Tensor] = []

    def address(tensor: object) -> int:
        assert isinstance(tensor, Tensor) and tensor.dtype == torch.float32  # widened, as SPEC says
        kept.append(tensor)
        return tensor.data_ptr()

    record, found = InstructionRecord(op=instruction.op), torch.empty(3, 5)
    fill(record, instruction, address)
    assert list(record.n) == list(pool.record.n) and list(record.f) == list(pool.record.f)
    record.inputs[0], record.out = operand(X), operand(found)
    step = StepRecord()
    step.rows[0] = 3
    kernel(record, step)
    assert torch.equal(found, twin(X, VECTOR, FACTOR))
