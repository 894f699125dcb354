"""Multi-head latent attention (DeepSeek-V2's report, 2.1), in its absorbed form: the cache holds one latent per token.

A query is carried into the latent's space (its "nope" part through the keys' unfolding), attends there as one KV head
that all query heads share, and what it gathers is unfolded to values afterwards. Keys and values per head never exist.
Shapes: N rows, H hidden, A heads here, L latent, R rotated dims.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Latents, RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.weights import Weight, plain
from weft.model.layers.base import Params, Unfolding, tensor, tensor_or_none
from weft.model.layers.base_attention import BaseAttention
from weft.model.layers.latent_rows import arranged_latent, arranged_queries, unfolded
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.splits import HeadShare


class LatentAttention(BaseAttention):
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
        rope: RotaryTables,
        attends: HeadShare | None = None,
    ) -> None:
        mla = config.mla
        assert mla is not None
        self.mla, cos_sin = mla, rope.cos_sin
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
            return AttentionSpec(kv_of_head, dim, softmax_scale(config), config.window(layer))

        super().__init__(ops, cos_sin.device, share, attends, spec_of)

    def queries(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A, L + R], for `attend`; writes the rows' latents to `cache`."""
        q, latent = self._projected(x_NH), self.ops.linear(x_NH, self.kv_a, None)
        return self.ops.latent_queries(q, latent, self.way, meta, cache)

    def _values(self, found: Tensor) -> Tensor:
        """Latents, partial ones after they are merged, are unfolded once."""
        return self.ops.per_head(found, self.to_value, self.own_heads)

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
