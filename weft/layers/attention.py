"""Attention: qkv projection, optional q/k norm, rope, cache write, attention. Takes rows whole, gives its own heads.

Written as for one device: its heads are given as numbers.
Shapes: N rows, H hidden, A query heads here, K KV heads here, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.arch.config import ModelConfig
from weft.layers.base import Params, tensor_or_none
from weft.layout.splits import HeadShare
from weft.ops.base import AttentionMeta, HeadNorms, Heads, KVCache, Ops


class Attention:
    """One layer's attention over the heads of `share`."""

    def __init__(
        self, params: Params, name: str, config: ModelConfig, layer: int, share: HeadShare, ops: Ops, cos_sin: Tensor
    ) -> None:
        self.ops, self.window = ops, config.window(layer)
        self.weight, self.bias = params[f"{name}.qkv.weight"], tensor_or_none(params, f"{name}.qkv.bias")
        q_norm, k_norm = (tensor_or_none(params, f"{name}.{each}_norm.weight") for each in "qk")
        norms = None
        if q_norm is not None and k_norm is not None:
            norms = HeadNorms(q_norm, k_norm, config.rms_norm_eps)
        q, kv = share.q[1] - share.q[0], share.kv[1] - share.kv[0]
        self.heads = Heads(q, kv, config.head_dim, cos_sin, norms)
        group = config.num_heads // config.num_kv_heads
        owners = [head // group - share.kv[0] for head in range(*share.q)]
        self.kv_of_head = torch.tensor(owners, dtype=torch.int32, device=cos_sin.device)
        self.scale = config.softmax_scale

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A, D], for `attend`; writes the rows' keys and values to `cache`."""
        return self.ops.qkv(self.ops.linear(x_NH, self.weight, self.bias), self.heads, meta, cache)

    def attend(self, q_NAD: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, A, D] -> [N, A * D]; `meta`: of these rows, which may be some of those that have keys."""
        return self.ops.attention(q_NAD, cache, self.kv_of_head, self.scale, meta, self.window)
