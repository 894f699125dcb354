"""Operations on meta tensors: those of TorchOps, except attention and experts, whose shapes depend on content."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.base import AttentionMeta, KVCache, Numerics
from weft.ops.reference.torch_ops import TorchOps
from weft.ops.weights import Weight, plain


class ShapeOps(TorchOps):
    """Attention reads no cache: which keys it would read is content."""

    name = "shapes"

    def __init__(self, numerics: Numerics) -> None:
        super().__init__(numerics, torch.device("meta"))

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(x, plain(weight), bias)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        return q.new_empty(q.shape[0], q.shape[1] * q.shape[2])

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        """As many rows as choices: which of them are here is content."""
        rows = x.new_empty(slots.numel(), x.shape[1])
        hidden = self.silu_mul(rows.new_empty(rows.shape[0], plain(gate_up).shape[1]))
        answers = hidden.new_empty(hidden.shape[0], plain(down).shape[1])
        return answers.view(*slots.shape, answers.shape[1])
