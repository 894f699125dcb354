"""Bits and bytes of quantized weights: of quantized checkpoints that cannot be loaded, of weights that weft quantizes
when it loads them, and of bf16 in 12 bits.

Sources of the first: the `quantization_config.quant_method` words of transformers; their scales and zero points are not
counted. Numbers only; nothing here loads or rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QUANTIZED = frozenset({"attention", "o_proj", "dense", "experts", "shared_experts"})
"""Modules whose matrices such checkpoints quantize; embedding, lm_head, router and norms stay as they are."""

_BITS = {
    "fp8": 8,
    "fbgemm_fp8": 8,
    "int8": 8,
    "w8a8": 8,
    "compressed-tensors": 8,
    "awq": 4,
    "gptq": 4,
    "mxfp4": 4,
}


def weight_bits(method: str) -> int | None:
    """Bits of a quantized weight; None for no quantization, or a method whose width is not known."""
    return _BITS.get(method.lower())


CODED = frozenset({"attention", "o_proj", "dense", "experts", "shared_experts"})
"""Modules whose matrices are quantized, besides the lm_head; router and MLA's projections are not."""
GROUP = 32
"""Depth that shares a scale and an offset, of two bytes together; the depth of a group of 12-bit numbers too."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How matrices that layers multiply by are kept: `quantization` as the engine's setting, and, for gguf, the
    (numbers, bytes) of a block of every tensor that may be kept in its blocks, by name."""

    quantization: str = "none"
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    experts: bool = True
    """Whether routed experts are among them; a file's blocks never are."""
    compressed: bool = False
    """Whether bf16 matrices that are not quantized take 12 bits a number; routed experts' never do."""
    packed: bool = False
    """Whether matrices are packed, quantized or not: a rank whose embedding rows are not those of its lm_head then
    holds a second copy of the rows it multiplies by."""
    rounds_rows: bool = False
    """Whether activations are rounded to 8 bits before they meet quantized matrices; bounds of logits are then of no
    use for more than a few rows."""
    prunes: bool = False
    """Whether kernels bound logits, where settings and layout allow it."""

    def matrix_bytes(self, name: str, shape: tuple[int, ...], head: bool, between_blocks: bool) -> int | None:
        """Bytes of a slice [rows, depth], scales included; None where it keeps the engine's dtype. `head`: it is the
        lm_head's too, of which 8 bits are kept; `between_blocks`: no block of the file is cut."""
        rows, depth = shape
        if self.quantization == "int8" or (self.quantization == "int4" and head):
            return rows * (depth + 4)
        if self.quantization == "int4":
            return rows * (-(-depth // 2) + 2 * -(-depth // GROUP))
        numbers, size = self.blocks.get(name, (0, 0))
        return rows * -(-depth // numbers) * size if numbers and between_blocks else None


def compressed_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a slice [rows, depth] of bf16 in 12 bits a number (`native/kernels/quant/lossless_bf16.h`): 32 rows'
    groups of 32 of the depth share 8 bytes, and 4 that tell one number which does not suit them."""
    rows, depth = shape
    return rows * -(-depth // GROUP) * (GROUP * GROUP * 12 // 8 + 8 + 4) // GROUP
