"""Operations on meta tensors: those of TorchOps, except attention and experts, whose shapes depend on content."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import Weight, plain


class ShapeAttention(AttentionBackend[None]):
    """Reads no cache: which keys it would read is content."""

    name = "shapes"

    def prepare(self, meta: AttentionMeta) -> None:
        return None

    def forward(
        self, q: Tensor, cache: KVCache, prepared: None, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        rows, heads, dim = q.shape
        if partial:
            return q.new_empty(rows, heads * (dim + 2), dtype=torch.promote_types(q.dtype, torch.float32))
        return q.new_empty(rows, heads * dim)


class ShapeOps(TorchOps):
    """Results have the right shapes and no content."""

    name = "shapes"

    def __init__(self, numerics: Numerics) -> None:
        super().__init__(numerics, torch.device("meta"))
        self.attention_backend = ShapeAttention()

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(x, plain(weight), bias)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        """As many rows as choices: which of them are here is content."""
        rows = x.new_empty(slots.numel(), x.shape[1])
        hidden = self.silu_mul(rows.new_empty(rows.shape[0], plain(gate_up).shape[1]))
        answers = hidden.new_empty(hidden.shape[0], plain(down).shape[1])
        return answers.view(*slots.shape, answers.shape[1])
