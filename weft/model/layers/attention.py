"""Attention: qkv projection, optional q/k norm, rope, cache write, attention. Takes rows whole, gives its own heads.

Written as for one device: its heads are given as numbers.
Shapes: N rows, H hidden, A query heads here, K KV heads here, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import HeadNorms, Heads, RotaryTables
from weft.compute.ops.interface import Ops
from weft.model.layers.base import Params, tensor_or_none
from weft.model.layers.base_attention import BaseAttention
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.splits import HeadShare


class Attention(BaseAttention):
    """One layer's attention over the heads of `share`."""

    def __init__(
        self,
        params: Params,
        name: str,
        config: ModelConfig,
        layer: int,
        share: HeadShare,
        ops: Ops,
        rope: RotaryTables,
        attends: HeadShare | None = None,
    ) -> None:
        group = config.num_heads // config.num_kv_heads

        def spec_of(of: HeadShare) -> AttentionSpec:
            owners = [head // group - share.kv[0] for head in range(*of.q)]
            kv_of_head = torch.tensor(owners, dtype=torch.int32, device=rope.cos_sin.device)
            return AttentionSpec(kv_of_head, config.head_dim, config.softmax_scale, config.window(layer))

        super().__init__(ops, rope.cos_sin.device, share, attends, spec_of)
        self.weight, self.bias = params[f"{name}.qkv.weight"], tensor_or_none(params, f"{name}.qkv.bias")
        q_norm, k_norm = (tensor_or_none(params, f"{name}.{each}_norm.weight") for each in "qk")
        norms = None
        if q_norm is not None and k_norm is not None:
            norms = HeadNorms(q_norm, k_norm, config.rms_norm_eps)
        self.heads = Heads(self.own_heads, share.kv[1] - share.kv[0], config.head_dim, rope, norms)

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A, D], for `attend`; writes the rows' keys and values to `cache`."""
        return self.ops.qkv(self.ops.linear(x_NH, self.weight, self.bias), self.heads, meta, cache)
