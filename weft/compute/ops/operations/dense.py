"""Operations of rows and dense weights. Shapes: N rows, H hidden, I intermediate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.compute.native.records import Epilogue
from weft.compute.ops.base import Numerics
from weft.compute.ops.native.calls import Call, Sink
from weft.compute.ops.native.packed import PackedWeight, packed
from weft.compute.ops.operations.declare import F, N, NoCallError, OpCode, P, numbers, operation, pointers
from weft.compute.ops.weights import Weight

LO, HELD = numbers(2)
"""Of EMBED."""
EPILOGUE = N(2)
"""Of LINEAR, PER_HEAD and GROUPED."""
WEIGHT, BIAS = pointers(2)
"""Of LINEAR, EMBED and ADD_BIAS."""
NORM_WEIGHT = P(0)
"""Of NORM."""
EPS, SCALE = F(0), F(1)
"""Of all that have one."""


class DenseCodes:
    """Their numbers."""

    EMBED = OpCode(
        1, "out[r] = table row ids[r] - n[LO], zero where it is held elsewhere", "kernels/common/pointwise.h:embed"
    )
    NORM = OpCode(
        2,
        "out[r] = rms norm of in0[r], which in1[r] is added to before, where there is one",
        "kernels/common/pointwise.h:norm",
        (NORM_WEIGHT,),
        on_grid=True,
    )
    LINEAR = OpCode(3, "out[r] (op)= in0[r] @ weight^T + bias, by `epilogue`", "kernels/gemm/gemm.h:linear", (BIAS,))
    SILU_MUL = OpCode(6, "out[r] = silu(in0[r][:n]) * in0[r][n:]", "kernels/common/pointwise.h:silu_mul")
    ADD = OpCode(7, "out[r] += in0[r]", "kernels/common/pointwise.h:add")
    ADD_BIAS = OpCode(8, "out[r] += p[BIAS]", "kernels/common/pointwise.h:add_bias", (BIAS,))
    SELECT = OpCode(
        9,
        "in0, and in1 where there is one, keep rows step.sampled_rows alone, in place; out = in0",
        "kernels/common/pointwise.h:select_rows",
    )
    ROUND = OpCode(19, "out = in0 on the exact model's grid", "kernels/common/pointwise.h:round_rows")


class DenseCalls:
    """Calls that several operations make. `exact`: of the exact model."""

    sink: Sink
    exact: bool

    def embedding(self, ids: Tensor, weight: Tensor | PackedWeight, lo: int, dtype: torch.dtype) -> Tensor:
        """See `Ops.embedding`; ids [N, 1], rows in `dtype`."""
        out: Tensor = self.sink.new(ids, weight.shape[1], dtype)
        self.sink.emit(Call(DenseCodes.EMBED, out, (ids,), {LO: lo, HELD: weight.shape[0]}, {}, {WEIGHT: weight}))
        return out

    def linear(
        self,
        x: Tensor,
        weight: PackedWeight,
        out: Tensor,
        bias: Tensor | None = None,
        epilogue: Epilogue = Epilogue.STORE,
    ) -> Tensor:
        """out [N, columns] (op)= x [N, in] @ weight.T + bias, by `epilogue`. Returns `out`."""
        self.sink.emit(Call(DenseCodes.LINEAR, out, (x,), {EPILOGUE: epilogue}, {}, {WEIGHT: weight, BIAS: bias}))
        return out


class DenseOps(ABC):
    """What layers call."""

    numerics: Numerics
    calls: DenseCalls

    @operation()
    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        """Rows weight[id - lo]; zero where id is outside [lo, lo + len(weight))."""
        if not isinstance(weight, PackedWeight | Tensor):
            raise NoCallError("a table that is neither plain nor packed")
        return self.calls.embedding(ids.contiguous()[:, None], weight, lo, self.numerics.dtype)

    @operation(snapped=True)
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x * rsqrt(mean(x^2) + eps) * weight over the last dim, in fp32; x in the weight's dtype or fp32, what comes
        out in the weight's."""
        rows = x.flatten(0, -2)
        out: Tensor = self.calls.sink.new(rows, x.shape[-1], weight.dtype)
        self.calls.sink.emit(Call(DenseCodes.NORM, out, (rows,), {}, {EPS: eps}, {NORM_WEIGHT: weight}))
        return out.view(x.shape)

    @operation()
    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias; a row's result is the same for every number of rows."""
        weight = packed(weight)
        return self.calls.linear(x, weight, self.calls.sink.new(x, weight.shape[0], x.dtype), bias)

    @operation()
    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        """x @ weight.T in fp32 (fp64 for fp64), as it was added up: rounded to bf16, neighbours would become equal."""
        weight = packed(weight)
        return self.calls.linear(
            x, weight, self.calls.sink.new(x, weight.shape[0], torch.promote_types(x.dtype, torch.float32))
        )

    @operation()
    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        """silu(gate) * up of x [N, H] for gate_up [2 * I, H], gate first: [N, I]."""
        weight = packed(gate_up)
        out = self.calls.sink.new(x, weight.shape[0] // 2, x.dtype)
        return self.calls.linear(x, weight, out, bias, Epilogue.SILU_MUL_OF)

    @operation(snapped=True)
    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up for gate_up [N, 2 * I], gate first."""
        out: Tensor = self.calls.sink.new(gate_up, gate_up.shape[1] // 2, gate_up.dtype)
        self.calls.sink.emit(Call(DenseCodes.SILU_MUL, out, (gate_up,)))
        return out

    @abstractmethod
    def widen(self, x: Tensor) -> Tensor:
        """x in the dtype of the residual stream: fp32, or fp64 for fp64."""

    @abstractmethod
    def add(self, x: Tensor, h: Tensor) -> Tensor:
        """x + h in x's dtype, the residual stream's. May write into x, which is not read afterwards."""

    @abstractmethod
    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        """x + bias in x's dtype. May write into x."""

    @abstractmethod
    def select(self, xs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Of each of xs (two at most, of as many rows) the rows with the numbers `rows` (int64, ascending). May write
        into xs, which are not read afterwards."""

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """x, on the exact model's grid where there is one."""
