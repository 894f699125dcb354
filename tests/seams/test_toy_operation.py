"""An operation is four files: its declaration, the torch twin, a C++ kernel and a Triton kernel. Here one in one file.

What this proves: once a method of `Ops` is declared, with its code and the body that makes the call, `StepOps` runs it,
`TracingOps` adds it to a tape, `ExactOps` puts the twin's result on its grid and the C++ headers name its kernel. Both
sinks fill the same record, vectors widened as the code says. The kernel is Python that reads the record as C++ would,
so nothing is compiled; a Triton kernel would be a method of `TritonRows`, which has the twin until then.
"""

from __future__ import annotations

import ctypes
import sys
from abc import ABCMeta
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from weft.compute.native.records import InstructionRecord, StepRecord
from weft.compute.native.step_library import Pool
from weft.compute.ops.base import Numerics
from weft.compute.ops.generate import headers
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.calls import Call, fill
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.library_ops import LibraryOps, take_bodies
from weft.compute.ops.native.packed import operand
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.operations.declare import F, N, NoCallError, OpCode, P, codes, operation
from weft.compute.ops.operations.table import MODULES, OPS
from weft.compute.ops.reference.exact_ops import ExactOps, snap, take_snapped
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.model.program.ir import Buffer, NotTraceableError, Rows
from weft.model.program.tape import Tape
from weft.model.program.tracing import TracingOps

# The declaration, as it would stand in a module of weft/compute/ops/operations/.

COLUMNS, FACTOR, SHIFT = N(3), F(0), P(2)


class ToyCodes:
    SHIFT_ROWS = OpCode(200, "out[r] = f[FACTOR] * in0[r] + p[SHIFT]", "kernels/common/toy.h:shift_rows", (SHIFT,))


@operation(snapped=True)
def shifted(self: Ops, x: Tensor, vector: Tensor, factor: float) -> Tensor:
    """x * factor + vector, in fp32."""
    if x.dim() != 2:
        raise NoCallError("rows of more than one dimension")
    out: Tensor = self.calls.sink.new(x, x.shape[1], torch.float32)
    tensors = {SHIFT: vector}
    self.calls.sink.emit(Call(ToyCodes.SHIFT_ROWS, out, (x,), {COLUMNS: x.shape[1]}, {FACTOR: factor}, tensors))
    return out


# The torch twin.


def twin(self: Ops, x: Tensor, vector: Tensor, factor: float) -> Tensor:
    return x * factor + vector.to(x.dtype)


# The kernel.


def kernel(record: InstructionRecord, step: StepRecord) -> None:
    """As C++ would: by addresses alone."""
    assert record.op == ToyCodes.SHIFT_ROWS
    columns, rows = record.n[COLUMNS], step.rows[record.rows]

    def floats(address: int, count: int) -> Tensor:
        return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)

    vector = floats(record.p[SHIFT], columns)
    for row in range(rows):
        given = floats(record.inputs[0].base + 4 * row * record.inputs[0].stride, columns)
        floats(record.out.base + 4 * row * record.out.stride, columns).copy_(given * record.f[FACTOR] + vector)


class FakePool:
    """Runs the toy's kernel, and keeps the record."""

    def run_one(self, record: InstructionRecord, step: StepRecord) -> None:
        self.record = record
        kernel(record, step)


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, method in ((Ops, shifted), (TorchOps, twin), (LibraryOps, None), (ExactOps, None)):
        monkeypatch.setattr(owner, "shifted", method, raising=False)
    take_bodies(LibraryOps)
    take_snapped(ExactOps)


X, VECTOR, BY = torch.arange(15.0).view(3, 5), torch.tensor([1, -2, 3, 0.5, 4]).bfloat16(), 0.25
WANTED = twin(cast(Ops, None), X, VECTOR, BY)


def step_ops(pool: FakePool) -> Any:
    made = object.__new__(StepOps)
    made.calls = run_now(cast(Pool, pool))
    return made


def test_it_runs_at_once() -> None:
    assert torch.equal(step_ops(FakePool()).shifted(X, VECTOR, BY), WANTED)


def test_it_goes_on_a_tape_and_fills_the_same_record() -> None:
    pool, tape = FakePool(), Tape({})
    step_ops(pool).shifted(X, VECTOR, BY)
    tape.module = "toy"
    rows, ops = Rows("rows", 0, 1), cast(Any, TracingOps(Numerics(torch.float32), tape))
    out = ops.shifted(tape.tensor(Buffer(rows, 5, torch.float32)), VECTOR, BY)
    (instruction,) = tape.instructions
    assert instruction.op is ToyCodes.SHIFT_ROWS and instruction.module == "toy"
    assert tape.view(out) == instruction.out and instruction.out.buffer.rows == rows
    kept: list[Tensor] = []

    def address(tensor: object) -> int:
        assert isinstance(tensor, Tensor) and tensor.dtype == torch.float32  # widened, as the code says
        kept.append(tensor)
        return tensor.data_ptr()

    record, found = InstructionRecord(op=instruction.op), torch.empty(3, 5)
    fill(record, instruction, address)
    assert list(record.n) == list(pool.record.n) and list(record.f) == list(pool.record.f)
    record.inputs[0], record.out = operand(X), operand(found)
    step = StepRecord()
    step.rows[0] = 3
    kernel(record, step)
    assert torch.equal(found, WANTED)


def test_what_the_library_has_no_call_for_is_the_twins_or_refused() -> None:
    cube = torch.ones(1, 1, 5)
    assert torch.equal(step_ops(FakePool()).shifted(cube, VECTOR, BY), twin(cast(Ops, None), cube, VECTOR, BY))
    tape = Tape({})
    tape.module = "toy"
    with pytest.raises(NotTraceableError, match="^toy: rows of more than one dimension$"):
        cast(Any, TracingOps(Numerics(torch.float32), tape)).shifted(cube, VECTOR, BY)


def test_the_exact_model_has_the_twins_result_on_its_grid() -> None:
    ops = cast(Any, ExactOps(Numerics(torch.float32, exact=True), torch.device("cpu")))
    assert torch.equal(ops.shifted(X / 7, VECTOR, BY), snap(twin(ops, X.double() / 7, VECTOR, BY)))


def test_the_headers_name_its_number_its_operands_and_its_kernel() -> None:
    texts = headers({**OPS, **codes(ToyCodes)}, (*MODULES, sys.modules[__name__]))
    records, table = (
        next(text for path, text in texts.items() if path.stem == name) for name in ("records", "kernel_table")
    )
    for line in ("SHIFT_ROWS = 200,  // out[r]", "    COLUMNS = 3,", "    FACTOR = 0,", "    SHIFT = 2,"):
        assert line in records, line
    assert '#include "kernels/common/toy.h"\n' in table and "case SHIFT_ROWS: return shift_rows;" in table


def test_an_implementation_without_it_cannot_be_made() -> None:
    base = ABCMeta("base", (), {"shifted": shifted})
    with pytest.raises(TypeError, match="shifted"):
        base()
    ABCMeta("implementation", (base,), {"shifted": twin})()
