"""Operations of the exact model: what is not an exact number is rounded to one, so that no order of sums matters.

Weights are multiples of 2^-6. Results of norm, rope, v, attention and silu * up are computed in fp64, rounded to
multiples of 2^-6 and clamped to +-4, and handed on in fp32: every product is then a multiple of 2^-12, and every fp32
sum of K of them is exact while K * max|w| * max|x| * 2^12 < 2^24. `linear` checks that. Never used to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from weft.base.errors import WeftError
from weft.compute.native.step_library import Pool, open_library
from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Numerics, RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.attention import StepAttention
from weft.compute.ops.operations.declare import declared
from weft.compute.ops.reference.grouped import plain_experts, summed
from weft.compute.ops.reference.linear import Invariance
from weft.compute.ops.reference.paged_attention import Tiles, TorchAttention
from weft.compute.ops.reference.torch_ops import TorchOps, of_slots, rotate, write_cache, write_latent
from weft.compute.ops.weights import Weight, plain
from weft.parallel.arch.config import MoEConfig

GRID = 64.0
LARGEST = 4.0
_UNITS = GRID * GRID
_EXACT_BELOW = 2.0**24


def snap(x: Tensor) -> Tensor:
    """fp64 rounded to multiples of 2^-6, clamped to +-4, in fp32."""
    return (torch.round(x.double() * GRID).clamp(-LARGEST * GRID, LARGEST * GRID) / GRID).float()


def on_grid(x: Tensor) -> bool:
    """Whether every element is a finite multiple of 2^-6."""
    units = x.double() * GRID
    return bool(torch.isfinite(units).all()) and torch.equal(units, units.round())


class ExactAttention(AttentionBackend[tuple[Any, Tiles | None]]):
    """Attention of another backend in fp64, on the exact model's grid. Partial outputs are the twin's and stay in
    fp64; `merge` puts their sum on the grid."""

    name = "exact"

    def __init__(self, inner: AttentionBackend[Any]) -> None:
        self._inner, self._twin = inner, TorchAttention()

    def prepare(self, meta: AttentionMeta) -> tuple[Any, Tiles | None]:
        return None if meta.share else self._inner.prepare(meta), self._twin.prepare(meta)

    def forward(
        self,
        q: Tensor,
        cache: KVCache,
        prepared: tuple[Any, Tiles | None],
        spec: AttentionSpec,
        *,
        partial: bool = False,
    ) -> Tensor:
        if partial:
            return self._twin.forward(q.double(), cache, prepared[1], spec, partial=True)
        return snap(self._inner.forward(q.double(), cache, prepared[0], spec))

    def merge(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        return snap(super().merge(parts, heads))


class ExactOps(TorchOps):
    """`check_inputs` also checks on every call that the rows given to `linear` are snapped (slow)."""

    name = "exact"

    def __init__(self, numerics: Numerics, device: torch.device, check_inputs: bool = False) -> None:
        super().__init__(numerics, device)
        self.check_inputs = check_inputs
        library = open_library() if device.type == "cpu" else None
        kernels = None if library is None else StepAttention(Pool(library, 1))
        self.attention_backend = ExactAttention(kernels or TorchAttention())
        self._largest = WeakTensorKeyDictionary()

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        weight = plain(weight)
        self._check(x, weight, bias)
        return F.linear(x, weight, bias)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, rope: RotaryTables, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        at = meta.positions.long()
        cos, sin = rope.cos_sin.double()[at].unsqueeze(1).chunk(2, -1)
        write_cache(snap(rotate(k, cos, sin)), snap(v), meta.slots, cache)
        turned = rotate(q, cos, sin)
        return snap(turned if rope.q_scale is None else turned * rope.q_scale.double()[at, None, None])

    def rope_and_cache_latent(
        self, q: Tensor, latent: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        cos, sin = cos_sin.double()[meta.positions.long()].unsqueeze(1).chunk(2, -1)
        kept = latent.shape[1] - q.shape[2]
        rotated = snap(rotate(latent[:, None, kept:], cos, sin))
        write_latent(torch.cat((latent[:, None, :kept], rotated), -1), meta.slots, cache)
        return snap(rotate(q, cos, sin))

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        experts, weights = super().route(logits.double(), correction, moe)
        return experts, snap(weights)

    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        return of_slots(plain(gate_up), slots), of_slots(plain(down), slots)

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        # the weight goes into the rows of `down`, where its product can be rounded alike in every layout
        return plain_experts(x, slots, plain(gate_up), plain(down), self._linear_of_slot, self._act, weights)

    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        return summed(answers, torch.ones_like(weights))

    def _act(self, gate_up: Tensor, weights: Tensor) -> Tensor:
        return snap(TorchOps.silu_mul(self, gate_up.double()) * weights.double())

    def rounded(self, x: Tensor) -> Tensor:
        return snap(x)

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        """Nothing to look for: exact sums have one value."""
        return Invariance("exact", True, 0, (), (), 0.0)

    def describe(self) -> str:
        return f"exact on {self.device}: for proofs, never to serve"

    def _check(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        if not x.numel() or not weight.numel():
            return
        largest = float(x.abs().max())
        of_weight, of_bias = self._largest_of(weight), self._largest_of(bias) if bias is not None else 0.0
        bound = (x.shape[1] * of_weight * largest + of_bias) * _UNITS
        if not bound < _EXACT_BELOW:
            raise WeftError(
                f"exact linear: (K {x.shape[1]} * max|w| {of_weight} * max|x| {largest} + max|b| {of_bias}) * 2^12 is "
                f"{bound:.0f}, not below 2^24: sums would be rounded"
            )
        if self.check_inputs and not on_grid(x):
            raise WeftError("exact linear: rows are not multiples of 2^-6")

    def _largest_of(self, weight: Tensor) -> float:
        """max|w| of a weight or bias, looked at once per tensor."""
        if weight not in self._largest:
            if not on_grid(weight):
                raise WeftError(
                    f"exact linear: a weight of shape {tuple(weight.shape)} is not made of multiples of 2^-6"
                )
            self._largest[weight] = float(weight.abs().max())
        return float(self._largest[weight])


def _snapped(name: str) -> Callable[..., Tensor]:
    """The torch twin's operation in fp64, its result on the grid."""

    def run(self: ExactOps, *args: Any) -> Tensor:
        wide = (each.double() if isinstance(each, Tensor) else each for each in args)
        return snap(getattr(super(ExactOps, self), name)(*wide))

    return run


def take_snapped(ops: type[ExactOps], of: type = Ops) -> None:
    """Gives `ops` each operation that `of` declares as `snapped`."""
    for name, body in declared(of).items():
        if vars(body)["snapped"]:
            setattr(ops, name, _snapped(name))


take_snapped(ExactOps)
