"""How matrices of weights are stored where that is not the engine's dtype: quantized by weft, or by a checkpoint.

weft's formats are rows of `weft/base/weight_formats.py`. Of quantized checkpoints, which weft cannot load, only the
width is counted: the `quantization_config.quant_method` words of transformers, without scales and zero points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.base.weight_formats import FORMATS, LOSSLESS, format_name

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


QUANTIZABLE = frozenset({"attention", "o_proj", "dense", "experts", "shared_experts"})
"""Modules whose matrices weft quantizes, beside the lm_head; not the router, nor MLA's projections."""


PANEL_ROWS = 32
"""Of a packed matrix: a pair of panels of 16."""


@dataclass(frozen=True, slots=True)
class WeightStorage:
    """How matrices that layers multiply by are stored: `quantization` as the engine's setting, and, for gguf, the
    format of every tensor that may stay in its file's blocks, by name."""

    quantization: str = "none"
    blocks: Mapping[str, str] = field(default_factory=dict)
    experts: bool = True
    """Whether routed experts are among them; a file's blocks never are."""
    compressed: bool = False
    """Whether bf16 matrices that are not quantized take 12 bits a number; routed experts' never do."""
    packed: bool = False
    """Whether matrices are packed, quantized or not: an lm_head that is a part of a tied embedding is then a copy."""
    pads: bool = False
    """Whether packed matrices have whole panels: rows that are no multiple of PANEL_ROWS are filled up."""
    int8_activations: bool = False
    """Whether activations are rounded to int8 before they meet quantized weights."""

    def format_name(self, name: str, lm_head: bool, between_blocks: bool) -> str | None:
        """The format of a slice of tensor `name`; None: the engine's dtype. `lm_head`: it is the lm_head's too;
        `between_blocks`: it splits no block of the file."""
        chosen = format_name(self.quantization, lm_head)
        return chosen or (self.blocks.get(name) if between_blocks else None)

    def matrix_bytes(self, name: str, shape: tuple[int, ...], lm_head: bool, between_blocks: bool) -> int | None:
        """Bytes of such a slice [rows, depth], scales included; None where it keeps the engine's dtype."""
        found = self.format_name(name, lm_head, between_blocks)
        return None if found is None else FORMATS[found].matrix_bytes(shape[0], shape[1])

    def block_numbers(self, name: str) -> int:
        """Columns of a block of the file in tensor `name`; 1 where it is not kept in blocks."""
        return FORMATS[self.blocks[name]].numbers if name in self.blocks else 1

    @property
    def group(self) -> int:
        """Columns that share a scale in the format that matrices are rounded to; 1 where none do."""
        name = format_name(self.quantization)
        return 1 if name is None else FORMATS[name].numbers


def compressed_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a slice [rows, depth] of bf16 in 12 bits a number."""
    return FORMATS[LOSSLESS].matrix_bytes(shape[0], shape[1])
