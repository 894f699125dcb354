"""Layers that hold one or two matrices: o_proj, dense MLP, embedding, lm_head, norm. Written as for one device.

A layer that gives a sum still to be added up (o_proj, dense, embedding across its block) leaves its bias to `add_bias`,
which the decoder calls once, after the reduction. None of them knows a rank or a collective.
"""

from __future__ import annotations

from torch import Tensor

from weft.compute.ops.interface import Ops
from weft.model.layers.base import Params, tensor, tensor_or_none


class Norm:
    """RMSNorm."""

    def __init__(self, params: Params, name: str, eps: float, ops: Ops) -> None:
        self.ops, self.eps, self.weight = ops, eps, tensor(params, f"{name}.weight")

    def forward(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, H]."""
        return self.ops.rms_norm(x, self.weight, self.eps)


class _Summed:
    """A layer whose output is an addend; `bias` belongs to the sum."""

    ops: Ops
    bias: Tensor | None

    def add_bias(self, x: Tensor) -> Tensor:
        """x plus the bias, where there is one."""
        return x if self.bias is None else self.ops.add_bias(x, self.bias)


class OProj(_Summed):
    """Attention's output projection over the columns held here."""

    def __init__(self, params: Params, name: str, ops: Ops) -> None:
        self.ops, self.weight, self.bias = ops, params[f"{name}.weight"], tensor_or_none(params, f"{name}.bias")

    def forward(self, x: Tensor) -> Tensor:
        """[N, columns held] -> addend [N, H]."""
        return self.ops.linear(x, self.weight, None)


class DenseMLP(_Summed):
    """down(silu(gate) * up) over the intermediate columns held here."""

    def __init__(self, params: Params, name: str, ops: Ops) -> None:
        self.ops = ops
        self.gate_up, self.gate_up_bias = (
            params[f"{name}.gate_up.weight"],
            tensor_or_none(params, f"{name}.gate_up.bias"),
        )
        self.down, self.bias = params[f"{name}.down.weight"], tensor_or_none(params, f"{name}.down.bias")

    def forward(self, x: Tensor) -> Tensor:
        """[N, H] -> addend [N, H]."""
        return self.ops.linear(self.ops.gated(x, self.gate_up, self.gate_up_bias), self.down, None)


class Embedding:
    """Token embedding over the vocabulary rows held here, the first of which is `lo`."""

    def __init__(self, params: Params, lo: int, ops: Ops) -> None:
        self.ops, self.weight, self.lo = ops, params["embedding.weight"], lo

    def forward(self, ids_N1: Tensor) -> Tensor:
        """ids [N, 1] -> addend [N, H]: zero for tokens held elsewhere."""
        return self.ops.embedding(ids_N1[:, 0], self.weight, self.lo)


class LMHead:
    """Logits of the vocabulary rows held here."""

    def __init__(self, params: Params, ops: Ops) -> None:
        self.ops, self.weight = ops, params["lm_head.weight"]

    def forward(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, vocabulary held], in fp32 at least."""
        return self.ops.logits(x, self.weight)
