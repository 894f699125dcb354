"""What a layer multiplies by: a tensor, or the same numbers packed in a form of the implementation's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from weft.compute.quant.base import QuantFormat
from weft.compute.quant.registry import format_for


class Use(StrEnum):
    """What a matrix [out, in] is for, which decides in which formats it may be packed."""

    LINEAR = "linear"
    GATED = "gated"
    """Gate rows, then as many up rows."""
    KEPT = "kept"
    """Never quantized: a router's rows, or latents that all heads share."""
    HEAD = "head"
    """Vocabulary rows, multiplied by; its rows may be asked for as embeddings too."""


def format_of_use(quantization: str, use: Use) -> QuantFormat | None:
    """What --quantization `quantization` rounds a matrix for `use` to; None: nothing."""
    return None if use is Use.KEPT else format_for(quantization, lm_head=use is Use.HEAD)


class Packed(ABC):
    """A matrix in a form that only the implementation that made it can read fast."""

    shape: tuple[int, int]
    """(out, in)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Of memory."""

    @abstractmethod
    def unpacked(self) -> Tensor:
        """The matrix as a tensor in the dtype it was packed from; a copy."""


@dataclass(frozen=True, slots=True, eq=False)
class FileBlocks:
    """A matrix in the blocks of a file, not decoded: `raw` uint8 [out, bytes of a row] in `format`, `depth` numbers a
    row."""

    raw: Tensor
    format: str
    depth: int


Weight = Tensor | Packed


def plain(weight: Weight) -> Tensor:
    """The matrix as a tensor, made anew where it is packed."""
    return weight.unpacked() if isinstance(weight, Packed) else weight


def memory_of(weights: Collection[Weight]) -> int:
    """Bytes that they take together: what several have in common counts once."""
    packed = {id(weight): weight.nbytes for weight in weights if isinstance(weight, Packed)}
    storages = [weight.untyped_storage() for weight in weights if not isinstance(weight, Packed)]
    return sum(packed.values()) + sum({each.data_ptr(): each.nbytes() for each in storages}.values())
