"""Numbers of things, as people say them."""

from __future__ import annotations


def counted(number: int, one: str, ending: str = "s") -> str:
    """'1 rank', '2 ranks', '0 ranks'."""
    return f"{number} {one}" if number == 1 else f"{number} {one}{ending}"


def up_to(most: int) -> str:
    """'1 to 8', or '1'."""
    return "1" if most == 1 else f"1 to {most}"
