"""Attention: qkv projection, optional q/k norm, rope, cache write, attention. Takes rows whole, gives its own heads.

Written as for one device: its heads are given as numbers.
Shapes: N rows, H hidden, A query heads here, K KV heads here, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import HeadNorms, Heads
from weft.compute.ops.interface import Ops
from weft.model.layers.base import Params, tensor_or_none
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.splits import HeadShare


class Attention:
    """One layer's attention over the heads of `share`."""

    def __init__(
        self,
        params: Params,
        name: str,
        config: ModelConfig,
        layer: int,
        share: HeadShare,
        ops: Ops,
        cos_sin: Tensor,
        attends: HeadShare | None = None,
    ) -> None:
        """`attends`: the heads, of several ranks, that it attends for over its own keys; None: its own."""
        self.ops = ops
        self.weight, self.bias = params[f"{name}.qkv.weight"], tensor_or_none(params, f"{name}.qkv.bias")
        q_norm, k_norm = (tensor_or_none(params, f"{name}.{each}_norm.weight") for each in "qk")
        norms = None
        if q_norm is not None and k_norm is not None:
            norms = HeadNorms(q_norm, k_norm, config.rms_norm_eps)
        q, kv = share.q[1] - share.q[0], share.kv[1] - share.kv[0]
        self.heads = Heads(q, kv, config.head_dim, cos_sin, norms)
        group = config.num_heads // config.num_kv_heads

        def spec_of(of: HeadShare) -> AttentionSpec:
            owners = [head // group - share.kv[0] for head in range(*of.q)]
            kv_of_head = torch.tensor(owners, dtype=torch.int32, device=cos_sin.device)
            spec = AttentionSpec(kv_of_head, config.head_dim, config.softmax_scale, config.window(layer))
            return ops.attention_backend.taken(spec, ops.numerics.dtype, cos_sin.device)

        self.own_spec = spec_of(share)
        self.spec = self.own_spec if attends in (None, share) else spec_of(attends)

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A, D], for `attend`; writes the rows' keys and values to `cache`."""
        return self.ops.qkv(self.ops.linear(x_NH, self.weight, self.bias), self.heads, meta, cache)

    def attend(self, q_NAD: Tensor, prepared: Any, cache: KVCache) -> Tensor:
        """[N, A, D] -> [N, A * D]; `prepared`: of these rows, which may be some of those that have keys."""
        return self.ops.attention(q_NAD, cache, prepared, self.spec)

    def attend_partly(self, q_NAD: Tensor, prepared: Any, cache: KVCache, *, own: bool = False) -> Tensor:
        """Queries [N, A, D] of all heads that it attends for, or with `own` of its own -> their partial output over the
        keys in `cache`."""
        return self.ops.partial_attention(q_NAD, cache, prepared, self.own_spec if own else self.spec)

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """Partial outputs of its own heads, in the owners' order -> [N, A * D]."""
        return self.ops.merged(parts, self.heads.q)
