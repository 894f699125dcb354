"""Operations of a CPU with the step library: packed weights, and a cache that its attention reads. One call each.

The eager twin of a step program: the same kernels, one after the other, over tensors made for each result, each
rounded to the dtype (a program keeps some sums in fp32: `model/program/fusion.py`). What the library has no instruction
for is plain torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from weft.base.plural import counted
from weft.base.weight_formats import LOSSLESS, kept_blocks
from weft.compute.native import isa
from weft.compute.native.step_library import Pool
from weft.compute.ops.attention import AttentionBackend
from weft.compute.ops.base import Numerics
from weft.compute.ops.native.arena import Arena
from weft.compute.ops.native.attention import StepAttention
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.library_ops import LibraryOps
from weft.compute.ops.native.packed import PackedSlots, Packing
from weft.compute.ops.reference.linear import Invariance
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import FileBlocks, Use, Weight, format_of_use
from weft.compute.quant.registry import format_of
from weft.parallel.arch.config import MoEConfig


class StepOps(LibraryOps, TorchOps):
    """Made by `make_ops` where the step library is there; `pool` runs its kernels."""

    name = "step"

    def __init__(self, numerics: Numerics, device: torch.device, pool: Pool) -> None:
        super().__init__(numerics, device)
        self.pool, self._packing = pool, Packing(pool, numerics.int8_activations)
        self._arena = Arena()
        asked = numerics.compress_weights
        self._compresses = numerics.dtype == torch.bfloat16 and (
            self._packing.suits_lossless_bf16 if asked is None else asked
        )
        self._lossless = format_of(LOSSLESS).native
        self._compressed: Counter[bool] = Counter()  # of the matrices that were to be compressed: whether they fit
        self.calls = run_now(pool)
        self.attention_backend: AttentionBackend[Any] = StepAttention(pool)
        if numerics.moe_backend in ("auto", "packed"):
            self.moe_backend = "packed"

    def prepare(self, weight: Tensor, use: Use, peaks: Tensor | None = None) -> Weight:
        found = format_of_use(self.numerics.quantization, use)
        if found is not None and found.native is None:
            return super().prepare(weight, use, peaks)
        compresses = found is None and use is not Use.KEPT and self._compresses
        form = self._lossless if compresses else found.native if found else None
        made = self._packing.pack(weight, form, interleaved=use is Use.GATED, arena=self._arena, peaks=peaks)
        if compresses and form:
            self._compressed[made.kind == form.kind] += 1
        return made

    def prepare_heads(self, weight: Tensor, heads: int) -> Weight:
        return self._packing.pack_slots(weight, heads)

    def prepare_slots(self, weight: Tensor, use: Use, slots: int, peaks: Tensor | None = None) -> Weight:
        found = format_of_use(self.numerics.quantization, use)
        if self.moe_backend != "packed" or (found is not None and found.native is None):
            return super().prepare_slots(weight, use, slots, peaks)
        form = found.native if found else None
        return self._packing.pack_slots(weight, slots, form, interleaved=use is Use.GATED, peaks=peaks)

    def takes_blocks(self, format: str, use: Use) -> bool:
        return self.numerics.quantization == "gguf" and format in kept_blocks()

    def prepare_blocks(self, blocks: FileBlocks, use: Use) -> Weight:
        return self._packing.pack_blocks(blocks, interleaved=use is Use.GATED, arena=self._arena)

    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        return (
            TorchOps.embedding(self, ids, weight, lo)
            if isinstance(weight, Tensor)
            else super().embedding(ids, weight, lo)
        )

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        experts, weights = super().route(logits.contiguous(), correction, moe)
        return experts.long(), weights

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        if not isinstance(gate_up, PackedSlots) or not isinstance(down, PackedSlots):
            return super().expert_answers(x, slots, weights, gate_up, down)
        placed = self.calls.place(self.calls.sink.beside(slots, weights), slots.shape[1], len(gate_up.slots))
        answers: Tensor = self.calls.answers(x, x.shape[1], placed, gate_up, down, x.dtype)
        return torch.where(placed.places[..., None] >= 0, answers[placed.places.clamp(min=0)], 0)

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        """Of what is not packed; packed products have one order of summation by construction."""
        plain = [weight for weight in weights if weight.dim() == 2]
        if not plain:
            return Invariance("packed, one order of summation", True, 0, (), (), 0.0)
        return super().check_batch_invariance(plain, seconds)

    def describe(self) -> str:
        threads = counted(self.pool.threads, "thread")
        kept = "packed" if self.numerics.quantization == "none" else f"packed as {self.numerics.quantization}"
        if matrices := self._compressed.total():
            kept += f", bf16 in 12 bits ({self._compressed[True]} of {matrices} matrices)"
        if self.numerics.quantization != "none":
            kept += f", {'int8' if self.numerics.int8_activations else 'full-precision'} activations"
        return f"step library ({isa.chosen()}) on {self.device}, {threads}; weights {kept}, others {self.form.name}"
