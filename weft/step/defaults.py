"""Sampling values that a model's generation_config.json recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def recommended(generation_config: Mapping[str, Any]) -> dict[str, float | int]:
    """The values that replace the API's defaults in a request that does not set them."""
    values = {name: generation_config.get(name) for name in RECOMMENDED}
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
