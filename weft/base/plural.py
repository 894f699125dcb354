"""Numbers of things, and of bytes, as people say them."""

from __future__ import annotations

from collections.abc import Collection


def counted(number: int, one: str, ending: str = "s") -> str:
    """'1 rank', '2 ranks', '0 ranks'."""
    return f"{number} {one}" if number == 1 else f"{number} {one}{ending}"


def numbered(numbers: Collection[int], one: str = "rank") -> str:
    """'rank 3', 'ranks 0, 3'."""
    return f"{one if len(numbers) == 1 else one + 's'} {', '.join(map(str, numbers))}"


def up_to(most: int) -> str:
    """'1 to 8', or '1'."""
    return "1" if most == 1 else f"1 to {most}"


def size(count: int) -> str:
    """'1.5 GiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
