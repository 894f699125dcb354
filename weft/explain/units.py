"""Numbers for people."""

from __future__ import annotations


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
