"""What a recording becomes in fewer instructions; that it stays the same program is what the exact suites show."""

from __future__ import annotations

import torch

from weft.compute.ops.operations.declare import OpCode
from weft.compute.ops.operations.table import Op
from weft.model.program.fusion import optimize
from weft.model.program.ir import Buffer, Instruction, Recording, Rows, View

ROWS = Rows("rows", 0, 1)


def view(dtype: torch.dtype = torch.float32) -> View:
    return View(Buffer(ROWS, 8, dtype), 0, 8)


def rewritten(*code: Instruction) -> list[tuple[OpCode, View, tuple[View, ...]]]:
    return [(each.op, each.out, each.inputs) for each in optimize(Recording(code, code[-1].out)).instructions]


def test_a_norm_of_what_was_just_added_adds_it() -> None:
    part, stream, normed, answer = view(torch.bfloat16), view(), view(torch.bfloat16), view(torch.bfloat16)
    found = rewritten(
        Instruction(Op.ALL_REDUCE, "o_proj.out", part, ()),
        Instruction(Op.ADD, "", stream, (part,)),
        Instruction(Op.NORM, "dense_norm", normed, (stream,)),
        Instruction(Op.LINEAR, "dense.gate_up", answer, (normed,)),
        Instruction(Op.ADD, "", stream, (answer,)),
    )
    assert found == [
        (Op.ALL_REDUCE, part, ()),
        (Op.NORM, normed, (stream, part)),
        (Op.LINEAR, stream, (normed,)),  # a linear adds its own sums
    ]


def test_a_norm_of_something_else_does_not() -> None:
    part, stream, other, normed = (view() for _ in range(4))
    code = (Instruction(Op.ADD, "", stream, (part,)), Instruction(Op.NORM, "norm", normed, (other,)))
    assert rewritten(*code) == [(Op.ADD, stream, (part,)), (Op.NORM, normed, (other,))]
    between = Instruction(Op.COPY, "", other, (stream,))
    assert len(rewritten(code[0], between, Instruction(Op.NORM, "norm", normed, (stream,)))) == 3
