"""Number formats of tensors in checkpoint files: elements and bytes of one block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from weft.base.weight_formats import Chosen, chosen_by


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """A block of `block` elements along the last dim takes `nbytes` bytes; plain formats have blocks of one element."""

    name: str
    block: int
    nbytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of `columns` elements, rounded up to whole blocks."""
        return -(-columns // self.block) * self.nbytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of `shape`; each row is rounded up to whole blocks."""
        return self.row_bytes(shape[-1]) * prod(shape[:-1]) if shape else self.nbytes

    def widen(self, lo: int, hi: int) -> tuple[int, int]:
        """The smallest run of whole blocks that holds elements [lo, hi), in elements."""
        return lo // self.block * self.block, -(-hi // self.block) * self.block


PLAIN = (TensorFormat("F64", 1, 8), TensorFormat("F32", 1, 4), TensorFormat("F16", 1, 2), TensorFormat("BF16", 1, 2))
QUANTIZED = tuple(TensorFormat(name, row.numbers, row.nbytes) for name, row in chosen_by(Chosen.FILE).items())
LOADABLE: dict[str, TensorFormat] = {fmt.name: fmt for fmt in (*PLAIN, *QUANTIZED)}
"""Formats that weights can be loaded from, by name."""
