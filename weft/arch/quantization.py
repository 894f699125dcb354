"""How wide the weights of a quantized checkpoint are. Numbers for explain; nothing here loads them.

Sources: the `quantization_config.quant_method` words of transformers; scales and zero points are not counted.
"""

from __future__ import annotations

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
