"""Sampling values that a model's own generation_config.json recommends. Knows no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def recommended(generation_config: Mapping[str, Any]) -> dict[str, float | int]:
    """The numbers that a request which names none gets instead of the API's own defaults."""
    values = {name: generation_config.get(name) for name in RECOMMENDED}
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
