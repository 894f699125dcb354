"""Attention: qkv projection, optional q/k norm, rope, cache write, attention. Takes rows whole, gives its own heads.

Written as for one device: which heads it has is a number handed in; it knows no rank and no collective.
Shapes: N rows, H hidden, A query heads here, K KV heads here, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.arch.config import ModelConfig
from weft.layers.base import Params
from weft.layout.cuts import HeadShare
from weft.ops.base import AttentionMeta, KVCache, Ops


class Attention:
    """One layer's attention over the heads of `share`."""

    def __init__(
        self, params: Params, name: str, config: ModelConfig, layer: int, share: HeadShare, ops: Ops, cos_sin: Tensor
    ) -> None:
        self.ops, self.cos_sin = ops, cos_sin
        self.head_dim, self.eps, self.window = config.head_dim, config.rms_norm_eps, config.window(layer)
        self.q_heads, self.kv_heads = share.q[1] - share.q[0], share.kv[1] - share.kv[0]
        self.weight, self.bias = params[f"{name}.qkv.weight"], params.get(f"{name}.qkv.bias")
        self.q_norm, self.k_norm = params.get(f"{name}.q_norm.weight"), params.get(f"{name}.k_norm.weight")
        group = config.num_heads // config.num_kv_heads
        owners = [head // group - share.kv[0] for head in range(*share.q)]
        self.kv_of_head = torch.tensor(owners, dtype=torch.int32, device=self.weight.device)
        self.scale = float(config.head_dim) ** -0.5

    def forward(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A * D]; writes the rows' keys and values to `cache`."""
        q, k, v = self._project(x_NH)
        q = self.ops.rope_and_cache(q, k, v, self.cos_sin, meta, cache)
        return self.ops.attention(q, cache, self.kv_of_head, self.scale, meta, self.window)

    def _project(self, x_NH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.ops.linear(x_NH, self.weight, self.bias)
        heads = qkv.view(qkv.shape[0], self.q_heads + 2 * self.kv_heads, self.head_dim)
        q, k, v = torch.split(heads, [self.q_heads, self.kv_heads, self.kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.ops.rms_norm(q, self.q_norm, self.eps), self.ops.rms_norm(k, self.k_norm, self.eps)
        return q, k, v
