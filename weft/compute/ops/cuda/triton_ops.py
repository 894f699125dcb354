"""Operations of a CUDA device: Triton's kernels where they serve, torch's products, and the plain twin for the rest.

None asks the host for a number that a step computed, so a CUDA graph can hold a step of them. Needs Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.compute.ops.base import Numerics
from weft.compute.ops.cuda import triton_attention, triton_rows
from weft.compute.ops.cuda.triton_product import Ordered
from weft.compute.ops.reference.linear import Form
from weft.compute.ops.weights import Weight

HALF, DTYPES = triton_attention.HALF, triton_attention.DTYPES


def why_broken(device: torch.device) -> str:
    """Why no kernel runs on `device`, as one that is tried says; empty where it runs."""
    try:
        found = triton_rows.add_into(torch.zeros(1, device=device), torch.ones(1, device=device)).item()
    except Exception as error:  # no compiler, no driver, an old device: Triton has a kind for each, and torch serves
        return f"Triton's kernels do not run here ({(str(error) or type(error).__name__).splitlines()[0]})"
    return "" if found == 1 else "Triton's kernels give wrong numbers here"


class TritonOps(triton_rows.TritonRows):
    """Made by `make_ops` for a CUDA device where Triton is installed."""

    name = "triton"

    def __init__(self, numerics: Numerics, device: torch.device) -> None:
        self._ordered = Ordered()
        super().__init__(numerics, device)
        self.attention_backend = triton_attention.TritonAttention()

    def forms(self) -> tuple[Form, ...]:
        direct, *others = super().forms()
        return (direct, self._ordered, *others) if self.numerics.dtype in HALF else (direct, *others)

    def why_not_capturable(self, experts: bool) -> str:
        if not experts or self.moe_backend == "grouped" and self._groups_alone():
            return ""
        return "the host takes part in products of routed experts (but in bfloat16, grouped, on Hopper and later)"

    def _groups_alone(self) -> bool:
        """Whether torch's grouped product needs no number on the host."""
        return self.numerics.dtype == torch.bfloat16 and torch.cuda.get_device_capability(self.device) >= (9, 0)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        if x.dtype not in HALF or not isinstance(weight, Tensor):
            return super().logits(x, weight)
        return self._ordered.wide(x, weight)
