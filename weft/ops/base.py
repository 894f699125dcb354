"""The seam of operations that layers call: flat buffers in, flat buffers out.

Shapes: N rows, H hidden, A query heads on this rank, K KV heads on this rank, D head dim, B blocks, S block size, R
runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.ops.reference.linear import Invariance
from weft.ops.slot_tables import SlotTables
from weft.ops.weights import FileBlocks, Use, Weight

FP32_MAX = torch.finfo(torch.float32).max
"""What a larger setting counts as, where fp32 is computed with."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """`dtype` of weights and activations; `exact`: results that are not exact numbers (norm, rope, v, attention output,
    silu * up) are computed in fp64, rounded to multiples of 2^-6 and clamped to +-4, so that fp32 sums in between are
    exact whatever their order (the exact suite; never used to serve). `moe_backend`: how routed experts are multiplied,
    "packed", "grouped" or "plain"; "auto" takes the first that the implementation has for the dtype."""

    dtype: torch.dtype
    exact: bool = False
    moe_backend: str = "auto"
    quantization: str = "none"
    """How matrices that layers multiply by are stored: none (in `dtype`), a format of `weft.weight_formats` that is
    chosen by option, or gguf (a file's blocks as they are, where the implementation takes them)."""
    int8_activations: bool = False
    """Whether activations are rounded to int8 before they are multiplied with quantized weights."""
    compress_weights: bool | None = None
    """Whether numbers of bf16 matrices that layers multiply by take 12 bits, none of them changed; None: where it costs
    many rows little."""

    prune_argmax: bool | None = None
    """Whether logits are bounded first, and few computed, where the largest is taken; None: where that is possible."""

    @property
    def cache_dtype(self) -> torch.dtype:
        """dtype of the KV cache."""
        return torch.float64 if self.exact else self.dtype


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights [D] of the norms of q and k."""

    q: Tensor
    k: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, KV heads and dims of each, on this rank; what their q and k are normed and turned by: `cos_sin`
    [max positions, D] (cos half, sin half; neox style)."""

    q: int
    kv: int
    dim: int
    cos_sin: Tensor
    norms: HeadNorms | None = None


@dataclass(frozen=True, slots=True)
class Latents:
    """MLA: what latents are normed by (`norm` [L]), what carries queries to their space (`to_latent` [A * L, P], a
    matrix for each head), and what both are turned by (`cos_sin` [max positions, R])."""

    norm: Tensor
    eps: float
    to_latent: Weight
    cos_sin: Tensor


class Ops(ABC):
    """The operations of a dense decoder. `name` is shown at start-up."""

    name: str
    numerics: Numerics
    attention_backend: AttentionBackend[Any]

    def why_not_capturable(self, experts: bool) -> str:
        """What keeps a CUDA graph from holding a step of these operations, of a model with routed experts or without;
        empty where nothing does."""
        return f"operations of {self.name} ask the host"

    def prepare(self, weight: Tensor, use: Use, peaks: Tensor | None = None) -> Weight:
        """`weight` [out, in] in the form that the products take fastest; called once for each as it is loaded, and the
        tensor is given up afterwards. `peaks` [out]: largest magnitudes of whole rows, where `weight` has a part of
        each and `needs_peaks` asks for them."""
        return weight

    def prepare_slots(self, weight: Tensor, use: Use, slots: int, peaks: Tensor | None = None) -> Weight:
        """The same for `weight` [slots * out, in], a matrix for each expert slot one below the other."""
        return self.prepare(weight, use, peaks)

    def needs_peaks(self, use: Use) -> bool:
        """Whether how a part of a row is rounded depends on the whole row."""
        return False

    def prepare_heads(self, weight: Tensor, heads: int) -> Weight:
        """The same for `weight` [heads * out, in], which `per_head` multiplies by."""
        return weight

    def takes_blocks(self, format: str, use: Use) -> bool:
        """Whether `prepare_blocks` takes a matrix in a file's `format`; else it is decoded and goes to `prepare`."""
        return False

    def prepare_blocks(self, blocks: FileBlocks, use: Use) -> Weight:
        """Like `prepare`, for blocks that `takes_blocks` said yes to."""
        raise TypeError(f"{self.name} takes no blocks of {blocks.format}")

    @abstractmethod
    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        """Rows weight[id - lo]; zero where id is outside [lo, lo + len(weight))."""

    @abstractmethod
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x * rsqrt(mean(x^2) + eps) * weight over the last dim, in fp32; x in the weight's dtype or fp32, what comes
        out in the weight's."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias; a row's result is the same for every number of rows."""

    @abstractmethod
    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        """x @ weight.T in fp32 (fp64 for fp64), as it was added up: rounded to bf16, neighbours would become equal."""

    @abstractmethod
    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        """silu(gate) * up of x [N, H] for gate_up [2 * I, H], gate first: [N, I]."""

    @abstractmethod
    def widen(self, x: Tensor) -> Tensor:
        """x in the dtype of the residual stream: fp32, or fp64 for fp64."""

    @abstractmethod
    def add(self, x: Tensor, h: Tensor) -> Tensor:
        """x + h in x's dtype, the residual stream's. May write into x, which is not read afterwards."""

    @abstractmethod
    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        """x + bias in x's dtype. May write into x."""

    @abstractmethod
    def select(self, xs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Of each of xs (two at most, of as many rows) the rows with the numbers `rows` (int64, ascending). May write
        into xs, which are not read afterwards."""

    @abstractmethod
    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """Splits packed rows [N, (A + 2 K) * D] (q, k, v), norms q and k where there are norms, then `rope_and_cache`:
        returns the rotated q [N, A, D]."""

    @abstractmethod
    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        """Rotates q [N, A, D] and k [N, K, D] by `cos_sin` [max positions, D] (cos half, sin half; neox style), writes
        k and v to the cache at meta.slots, returns the rotated q."""

    def attention(self, q: Tensor, cache: KVCache, prepared: Any, spec: AttentionSpec) -> Tensor:
        """Causal attention of q [N, A, D] over cached keys: [N, A * D]. `prepared`: what the backend made of these
        rows (`AttentionBackend.prepare`)."""
        return self.attention_backend.forward(q, cache, prepared, spec)

    @abstractmethod
    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        """x [N, A * D] by weight [A * M, K], a matrix for each head: the first K of a head's D columns times its own,
        [N, A * M]; bits of a row as in `linear`."""

    @abstractmethod
    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """MLA: of latent [N, L + R] the first L are normed and the last R rotated, and it goes to the cache
        ([B + 1, 1, S, L + R], k and v one tensor); q [N, A * (P + R)] is carried to the latent's space and rotated:
        [N, A, L + R]."""

    @abstractmethod
    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        """Router logits [N, E] -> (experts [N, k] int64, weights [N, k] fp32), best first, ties: the lowest expert."""

    @abstractmethod
    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        """The weights of `slots` experts, prepared by `prepare_slots`, in the form that `routed` takes; called once, at
        start."""

    @abstractmethod
    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        """[N, H]: the weighted sum of the answers of the slots here to x [N, H], in the order of a row's choices;
        experts and weights [N, k] as `route` gives them, for all rows of the block. Zero rows where no slot is here."""

    @abstractmethod
    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        """[N, k, H]: MLP of slot slots[N, k] (int64; -1: not here, zeros) on x [N, H]. To be added up by `weighted`,
        which knows whether weights [N, k] are in the answers already."""

    @abstractmethod
    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        """Sum over k of weights [N, k] * answers [N, k, H], in fp32 at least and in the order of the choices."""

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """x, on the exact model's grid where there is one."""

    @abstractmethod
    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up for gate_up [N, 2 * I], gate first."""

    @abstractmethod
    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        """Run once at start: tries `linear` on one of `weights` [out, in] of each shape, and from then on uses a form
        of it whose rows keep their bits for every number of rows; the report says if none does."""

    @abstractmethod
    def describe(self) -> str:
        """One line for start-up: which implementation, on what, and why not a faster one."""
