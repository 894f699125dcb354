"""Multi-head latent attention (DeepSeek-V2's report, 2.1), in its absorbed form: the cache holds one latent per token.

A query is carried into the latent's space (its "nope" part through the keys' unfolding), attends there as one KV head
that all query heads share, and what it gathers is unfolded to values afterwards. Keys and values per head never exist.
Knows which heads it has; no rank, no collective. Shapes: N rows, H hidden, A heads here, L latent, R rotated dims.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weft.arch.config import ModelConfig
from weft.layers.base import Params, tensor, tensor_or_none
from weft.layout.cuts import HeadShare
from weft.ops.base import AttentionMeta, KVCache, Ops


class LatentAttention:
    """One layer's attention over the heads of `share`; latents are whole on every rank."""

    def __init__(
        self, params: Params, name: str, config: ModelConfig, layer: int, share: HeadShare, ops: Ops, cos_sin: Tensor
    ) -> None:
        mla = config.mla
        assert mla is not None
        self.ops, self.cos_sin, self.mla, self.eps = ops, cos_sin, mla, config.rms_norm_eps
        self.heads, self.window = share.q[1] - share.q[0], config.window(layer)
        self.q_a, self.q_a_norm = (
            tensor_or_none(params, f"{name}.q_a.weight"),
            tensor_or_none(params, f"{name}.q_a_norm.weight"),
        )
        self.kv_a_norm = tensor(params, f"{name}.kv_a_norm.weight")
        order = _halves(mla.rope_dim) if mla.interleaved else torch.arange(mla.rope_dim)
        self.q_b = _rotated_rows(tensor(params, f"{name}.q_b.weight"), self.heads, mla.nope_dim, order)
        self.kv_a = _rotated_rows(tensor(params, f"{name}.kv_a.weight"), 1, mla.kv_lora_rank, order)
        unfold = tensor(params, f"{name}.kv_b.weight").view(self.heads, mla.nope_dim + mla.v_dim, mla.kv_lora_rank)
        self.to_latent = unfold[:, : mla.nope_dim].transpose(1, 2).contiguous()
        self.to_value = unfold[:, mla.nope_dim :].contiguous()
        self.kv_of_head = torch.zeros(self.heads, dtype=torch.int32, device=self.q_b.device)
        self.scale = softmax_scale(config)

    def forward(self, x_NH: Tensor, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """[N, H] -> [N, A * value dim]; writes the rows' latents to `cache`."""
        q_nope, q_rope = torch.split(self._queries(x_NH), [self.mla.nope_dim, self.mla.rope_dim], dim=-1)
        q_rope = self.ops.rope_and_cache_latent(q_rope, self._latent(x_NH), self.cos_sin, meta, cache)
        q = torch.cat((self.ops.per_head(q_nope, self.to_latent), q_rope), -1)
        found = self.ops.attention(q, cache, self.kv_of_head, self.scale, meta, self.window)
        latent = found.view(x_NH.shape[0], self.heads, self.mla.latent_dim)[..., : self.mla.kv_lora_rank]
        return self.ops.per_head(latent, self.to_value).reshape(x_NH.shape[0], self.heads * self.mla.v_dim)

    def _queries(self, x: Tensor) -> Tensor:
        if self.q_a is not None and self.q_a_norm is not None:
            x = self.ops.rms_norm(self.ops.linear(x, self.q_a, None), self.q_a_norm, self.eps)
        q = self.ops.rounded(self.ops.linear(x, self.q_b, None))
        return q.view(x.shape[0], self.heads, self.mla.qk_dim)

    def _latent(self, x: Tensor) -> Tensor:
        latent = self.ops.linear(x, self.kv_a, None)
        kept, rotated = torch.split(latent, [self.mla.kv_lora_rank, self.mla.rope_dim], dim=-1)
        return torch.cat((self.ops.rms_norm(kept, self.kv_a_norm, self.eps), rotated), -1)


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(query dims), times the square of YaRN's mscale where the config has one for all dims."""
    assert config.mla is not None
    scaling = config.rope.scaling or {}
    weight, factor = float(scaling.get("mscale_all_dim") or 0.0), float(scaling.get("factor") or 1.0)
    mscale = 0.1 * weight * math.log(factor) + 1.0 if weight and factor > 1 else 1.0
    return mscale * mscale / math.sqrt(config.mla.qk_dim)


def _halves(dims: int) -> Tensor:
    """Even places, then odd ones: from neighbouring pairs to pairs half a head apart."""
    return torch.cat((torch.arange(0, dims, 2), torch.arange(1, dims, 2)))


def _rotated_rows(weight: Tensor, heads: int, kept: int, order: Tensor) -> Tensor:
    """`weight` with the last rows of each head in `order`."""
    rows = weight.view(heads, weight.shape[0] // heads, weight.shape[1])
    return torch.cat((rows[:, :kept], rows[:, kept:][:, order.to(weight.device)]), 1).flatten(0, 1).contiguous()
