"""Multi-head latent attention (DeepSeek-V2's report, 2.1), in its absorbed form: the cache holds one latent per token.

A query is carried into the latent's space (its "nope" part through the keys' unfolding), attends there as one KV head
that all query heads share, and what it gathers is unfolded to values afterwards. Keys and values per head never exist.
Shapes: N rows, H hidden, A heads here, L latent, R rotated dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Latents
from weft.compute.ops.interface import Ops
from weft.compute.ops.weights import Weight, plain
from weft.model.layers.base import Params, Unfolding, tensor, tensor_or_none
from weft.model.layers.latent_rows import arranged_latent, arranged_queries, unfolded
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.splits import HeadShare


class LatentAttention:
    """One layer's attention over the heads of `share`; every rank of an attention block has latents of all positions,
    or with kv_split of its own."""

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
        """`attends`: the heads, of several ranks, that it attends for over its own latents; None: its own."""
        mla = config.mla
        assert mla is not None
        self.ops, self.mla = ops, mla
        self.heads = share.q[1] - share.q[0]
        self.q_a, self.q_a_norm = params.get(f"{name}.q_a.weight"), tensor_or_none(params, f"{name}.q_a_norm.weight")
        q_b, kv_a = params[f"{name}.q_b.weight"], params[f"{name}.kv_a.weight"]
        # what is packed was put in order before
        self.q_b = arranged_queries(q_b, mla) if isinstance(q_b, Tensor) else q_b
        self.kv_a = arranged_latent(kv_a, mla) if isinstance(kv_a, Tensor) else kv_a
        unfold = params[f"{name}.kv_b.weight"]
        parts = (unfold.to_latent, unfold.to_value) if isinstance(unfold, Unfolding) else unfolded(plain(unfold), mla)
        self.way = Latents(tensor(params, f"{name}.kv_a_norm.weight"), config.rms_norm_eps, parts[0], cos_sin)
        self.to_value: Weight = parts[1]
        dim = self.way.norm.shape[0] + cos_sin.shape[1]

        def spec_of(of: HeadShare) -> AttentionSpec:
            kv_of_head = torch.zeros(of.q[1] - of.q[0], dtype=torch.int32, device=cos_sin.device)
            spec = AttentionSpec(kv_of_head, dim, softmax_scale(config), config.window(layer))
            return ops.attention_backend.taken(spec, ops.numerics.dtype, cos_sin.device)

        self.own_spec = spec_of(share)
        self.spec = self.own_spec if attends in (None, share) else spec_of(attends)

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A, L + R], for `attend`; writes the rows' latents to `cache`."""
        q, latent = self._projected(x_NH), self.ops.linear(x_NH, self.kv_a, None)
        return self.ops.latent_queries(q, latent, self.way, meta, cache)

    def attend(self, q: Tensor, prepared: Any, cache: KVCache) -> Tensor:
        """[N, A, L + R] -> [N, A * value dim]; `prepared`: of these rows, which may be some of those that have
        latents."""
        found = self.ops.attention(q, cache, prepared, self.spec)
        return self.ops.per_head(found, self.to_value, self.heads)

    def attend_partly(self, q: Tensor, prepared: Any, cache: KVCache, *, own: bool = False) -> Tensor:
        """Queries [N, A, L + R] of all heads that it attends for, or with `own` of its own -> their partial output over
        the latents in `cache`."""
        return self.ops.partial_attention(q, cache, prepared, self.own_spec if own else self.spec)

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """Partial outputs of its own heads, in the owners' order -> [N, A * value dim]. They are merged as latents, and
        unfolded once."""
        return self.ops.per_head(self.ops.merged(parts, self.heads), self.to_value, self.heads)

    def _projected(self, x: Tensor) -> Tensor:
        if self.q_a is not None and self.q_a_norm is not None:
            x = self.ops.rms_norm(self.ops.linear(x, self.q_a, None), self.q_a_norm, self.way.eps)
        return self.ops.rounded(self.ops.linear(x, self.q_b, None))


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(query dims), times the square of YaRN's mscale where the config has one for all dims."""
    assert config.mla is not None
    scaling = config.rope.scaling or {}
    weight, factor = float(scaling.get("mscale_all_dim") or 0.0), float(scaling.get("factor") or 1.0)
    mscale = 0.1 * weight * math.log(factor) + 1.0 if weight and factor > 1 else 1.0
    return mscale * mscale / math.sqrt(config.mla.qk_dim)
