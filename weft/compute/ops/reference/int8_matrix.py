"""A quantized matrix that is multiplied with int8 activations, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.weights import Packed


@dataclass(frozen=True, slots=True, eq=False)
class Int8ActivationMatrix(Packed):
    """`matrix`: fp32 [out, in], what the quantized values stand for, not rounded to bf16."""

    shape: tuple[int, int]
    matrix: Tensor
    dtype: torch.dtype
    """Of the matrix that was quantized."""

    @classmethod
    def of(cls, matrix: Tensor, dtype: torch.dtype) -> Int8ActivationMatrix:
        """For `matrix` [out, in], already rounded."""
        return cls((matrix.shape[0], matrix.shape[1]), matrix, dtype)

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def unpacked(self) -> Tensor:
        return self.matrix.to(self.dtype)
