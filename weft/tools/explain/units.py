"""Numbers for people, and how matrices of them are kept."""

from __future__ import annotations

from weft.parallel.arch.quantization import WeightStorage


def storage_words(storage: WeightStorage, method: str = "") -> str:
    """', matrices in int4'; nothing for whole numbers of the dtype. `method`: of a checkpoint that is quantized."""
    if method:
        return f", matrices in {method}"
    words = "" if storage.quantization == "none" else f", matrices in {storage.quantization}"
    return words + (f", {'others' if words else 'matrices'} in 12 bits" if storage.compressed else "")


def binary(number: int) -> str:
    """'0 B', '7.5 KiB', '128.3 MiB': three or four digits."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count(number: int) -> str:
    """'1,048,576'."""
    return f"{number:,}"
