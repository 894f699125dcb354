"""The plain torch twin of every operation, on any device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.compute.ops.attention import AttentionBackend, AttentionMeta, KVCache
from weft.compute.ops.base import Heads, Latents, Numerics, RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.grouped import aligned, grouped_experts, is_aligned, plain_experts, summed
from weft.compute.ops.reference.int8_matrix import Int8ActivationMatrix
from weft.compute.ops.reference.linear import Form, Invariance, choose_for_each, choose_form, forms
from weft.compute.ops.reference.paged_attention import TorchAttention
from weft.compute.ops.reference.routing import route
from weft.compute.ops.slot_tables import SlotTables
from weft.compute.ops.weights import Use, Weight, format_of_use, plain
from weft.compute.quant.base import QuantFormat
from weft.compute.quant.int8_activations import fake_quantize_rows
from weft.parallel.arch.config import MoEConfig

GROUPED = (torch.float32, torch.bfloat16, torch.float16)
"""dtypes of torch's grouped product."""
LOGITS_PART = 8192
"""Vocabulary rows that are widened to fp32 at a time."""
PER_HEAD_ROWS = 16
"""Rows of a per-head product are filled up to a multiple, for the reason that `linear` gives."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that results are computed in before they are rounded once to `dtype`: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neox rotation of the first R dims of x [N, heads, D] by cos and sin [N, 1, R / 2], in their dtype."""
    half = cos.shape[-1]
    first, second, kept = x.to(cos.dtype).split([half, half, x.shape[-1] - 2 * half], -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, kept), -1)


def write_latent(latent: Tensor, slots: Tensor, cache: KVCache) -> None:
    """Writes latents [N, 1, L] at slots[N]; keys and values are one tensor."""
    size = cache.k.shape[2]
    cache.k[slots.long() // size, :, slots.long() % size] = latent.to(cache.k.dtype)


def write_cache(k: Tensor, v: Tensor, slots: Tensor, cache: KVCache) -> None:
    """Writes k and v [N, K, D] at slots[N] = block * S + offset."""
    size = cache.k.shape[2]
    block, offset = slots.long() // size, slots.long() % size
    cache.k[block, :, offset] = k.to(cache.k.dtype)
    cache.v[block, :, offset] = v.to(cache.v.dtype)


def of_slots(weight: Tensor, slots: int) -> Tensor:
    """[slots * out, in] as [slots, out, in]."""
    return weight.view(slots, weight.shape[0] // slots, weight.shape[1])


class TorchOps(Ops):
    """Plain torch; the answer key of every other implementation. `why_plain`: why nothing faster serves, for a
    person."""

    name = "torch"

    def __init__(self, numerics: Numerics, device: torch.device, why_plain: str = "") -> None:
        self.numerics = numerics
        self.device = device
        self.why_plain = why_plain
        self.attention_backend: AttentionBackend[Any] = TorchAttention()
        self.form = self.forms()[0]
        quantized = numerics.int8_activations and numerics.moe_backend in ("auto", "packed")
        self._int8_activations_of_slots = quantized and format_of_use(numerics.quantization, Use.LINEAR) is not None
        auto = "grouped" if numerics.dtype in GROUPED and not quantized else "plain"
        self.moe_backend = auto if numerics.moe_backend == "auto" else numerics.moe_backend

    def forms(self) -> tuple[Form, ...]:
        """Ways to compute `linear`, first choice first."""
        return forms(self.numerics.dtype, self.device)

    def prepare(self, weight: Tensor, use: Use, peaks: Tensor | None = None) -> Weight:
        """What its quantized values stand for, in its own dtype; in fp32 for int8 activations."""
        found = format_of_use(self.numerics.quantization, use)
        return weight if found is None else _prepared(weight, found, self.numerics.int8_activations, peaks)

    def prepare_slots(self, weight: Tensor, use: Use, slots: int, peaks: Tensor | None = None) -> Weight:
        found = format_of_use(self.numerics.quantization, use)
        return weight if found is None else _prepared(weight, found, self._int8_activations_of_slots, peaks)

    def needs_peaks(self, use: Use) -> bool:
        found = format_of_use(self.numerics.quantization, use)
        return found is not None and found.needs_peaks

    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        weight = plain(weight)
        local = ids - lo
        outside = (local < 0) | (local >= weight.shape[0])
        return F.embedding(local.masked_fill(outside, 0), weight).masked_fill(outside[:, None], 0)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        h = x.to(wide(x.dtype))
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
        return (h * weight).to(weight.dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        if isinstance(weight, Int8ActivationMatrix):
            return self._with_int8_activations(x, weight, bias).to(x.dtype)
        return self.form(x, plain(weight), bias)

    def _with_int8_activations(self, x: Tensor, weight: Int8ActivationMatrix, bias: Tensor | None) -> Tensor:
        """In fp32: bf16 cannot hold what int8 activations stand for."""
        form = forms(torch.float32, self.device)[0]
        wide_bias = None if bias is None else bias.float()
        return form(fake_quantize_rows(x), weight.matrix, wide_bias)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        if isinstance(weight, Int8ActivationMatrix):
            return self._with_int8_activations(x, weight, None)
        weight = plain(weight)
        if x.dtype == wide(x.dtype):
            return self.linear(x, weight, None)
        if x.device.type == "cuda":
            return torch.mm(x, weight.t(), out_dtype=torch.float32)
        form = forms(torch.float32, self.device)[0]
        return torch.cat([form(x.float(), part.float(), None) for part in torch.split(weight, LOGITS_PART)], 1)

    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        return self.silu_mul(self.linear(x, gate_up, bias))

    def widen(self, x: Tensor) -> Tensor:
        return x.to(wide(x.dtype))

    def add(self, x: Tensor, h: Tensor) -> Tensor:
        return x + h

    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias

    def select(self, xs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(x if len(rows) == len(x) else x.index_select(0, rows) for x in xs)

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        packed = qkv.view(qkv.shape[0], heads.q + 2 * heads.kv, heads.dim)
        q, k, v = torch.split(packed, [heads.q, heads.kv, heads.kv], dim=1)
        if (norms := heads.norms) is not None:
            q, k = self.rms_norm(q, norms.q, norms.eps), self.rms_norm(k, norms.k, norms.eps)
        return self.rope_and_cache(q, k, v, heads.rope, meta, cache)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, rope: RotaryTables, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        at = meta.positions.long()
        cos, sin = rope.cos_sin[at].unsqueeze(1).chunk(2, -1)
        write_cache(rotate(k, cos, sin), v, meta.slots, cache)
        turned = rotate(q, cos, sin)
        return (turned if rope.q_scale is None else turned * rope.q_scale[at, None, None]).to(q.dtype)

    def rope_and_cache_latent(
        self, q: Tensor, latent: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        """Rotates q [N, A, R] and the last R of latent [N, L + R], writes the latent to the cache, returns the rotated
        q."""
        cos, sin = cos_sin[meta.positions.long()].unsqueeze(1).chunk(2, -1)
        kept = latent.shape[1] - q.shape[2]
        rotated = rotate(latent[:, None, kept:], cos, sin).to(latent.dtype)
        write_latent(torch.cat((latent[:, None, :kept], rotated), -1), meta.slots, cache)
        return rotate(q, cos, sin).to(q.dtype)

    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        kept, rotated = way.norm.shape[0], way.cos_sin.shape[1]
        heads = way.to_latent.shape[0] // kept
        parts = q.view(q.shape[0], heads, q.shape[1] // heads)
        normed = self.rms_norm(latent[:, :kept], way.norm, way.eps)
        latent = torch.cat((normed, latent[:, kept:]), -1)
        q_rope = self.rope_and_cache_latent(parts[..., -rotated:], latent, way.cos_sin, meta, cache)
        carried = self.per_head(q, way.to_latent, heads)
        return torch.cat((carried.view(q.shape[0], heads, kept), q_rope), -1)

    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        matrices, rows = of_slots(plain(weight), heads), x.shape[0]
        first = x.view(rows, heads, x.shape[1] // heads)[..., : matrices.shape[2]]
        padded = x.new_zeros(-(-rows // PER_HEAD_ROWS) * PER_HEAD_ROWS, *first.shape[1:])
        padded.narrow(0, 0, rows).copy_(first)
        found = torch.bmm(padded.transpose(0, 1), matrices.transpose(1, 2)).transpose(0, 1).narrow(0, 0, rows)
        return found.reshape(rows, heads * matrices.shape[1])

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        return route(logits.to(wide(logits.dtype)), correction, moe)

    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        wide, narrow = (of_slots(_matrix(weight), slots) for weight in (gate_up, down))
        return aligned(wide, narrow) if self.moe_backend == "grouped" else (wide, narrow)

    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        slots = tables.local(tables.slots(experts))
        return self.weighted(self.expert_answers(x, slots, weights, gate_up, down), weights)

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        wide, narrow = _matrix(gate_up), _matrix(down)
        if self.moe_backend == "grouped" and is_aligned(x):
            return grouped_experts(x, slots, wide, narrow, self._act, weights)
        return plain_experts(x, slots, wide, narrow, self._linear_of_slot, self._act, weights)

    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        return summed(answers, weights)

    def _act(self, gate_up: Tensor, weights: Tensor) -> Tensor:
        """SiLU * up; the exact model also weighs the row here."""
        return self.silu_mul(gate_up)

    def _linear_of_slot(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.linear(
            x, Int8ActivationMatrix.of(weight, x.dtype) if self._int8_activations_of_slots else weight, None
        )

    def rounded(self, x: Tensor) -> Tensor:
        return x

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        # Not F.silu: its vector code and the code for its last elements round differently, and where "last" is
        # depends on the number of rows and threads.
        gate, up = gate_up.to(wide(gate_up.dtype)).chunk(2, -1)
        return (gate / (1 + torch.exp(-gate)) * up).to(gate_up.dtype)

    def describe(self) -> str:
        said = f"{self.name} on {self.device}; linear {self.form.name}"
        return f"{said}; {self.why_plain}" if self.why_plain else said

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        choose = choose_form if self.device.type == "cpu" else choose_for_each
        self.form, report = choose(self.forms(), weights, seconds)
        return report


def _prepared(weight: Tensor, to: QuantFormat, int8_activations: bool, peaks: Tensor | None) -> Weight:
    if int8_activations:
        return Int8ActivationMatrix.of(to.fake_quantize(weight, as_bf16=False, peaks=peaks), weight.dtype)
    return to.fake_quantize(weight, peaks=peaks).to(weight.dtype)


def _matrix(weight: Weight) -> Tensor:
    """As it is multiplied by, for products that know what becomes of their rows."""
    return weight.matrix if isinstance(weight, Int8ActivationMatrix) else plain(weight)
