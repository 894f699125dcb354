"""The prompts: token ids of shuffled paragraphs of the licence, the same for every engine; no two begin alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

TEXT = Path(__file__).resolve().parents[2] / "LICENSE"

Encode = Callable[[str], list[int]]


def prompts(encode: Encode, count: int, length: int) -> list[list[int]]:
    """`count` prompts of exactly `length` ids."""
    paragraphs = [" ".join(part.split()) for part in TEXT.read_text().split("\n\n") if part.strip()]
    return [_prompt(encode, paragraphs, seed, length) for seed in range(count)]


def _prompt(encode: Encode, paragraphs: list[str], seed: int, length: int) -> list[int]:
    draw, ids = random.Random(seed), encode(f"{seed + 1}.")
    while len(ids) < length:
        ids += encode(" " + draw.choice(paragraphs))
    return ids[:length]
