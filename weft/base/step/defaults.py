"""Sampling values that a model's generation_config.json recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.base.errors import FieldError, RequestError
from weft.base.step.sampling_params import SamplingParams, check

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SAMPLING = RECOMMENDED[:4]
"""What transformers does not look at where do_sample is false."""


def recommended(generation_config: Mapping[str, Any], where: str = "generation_config.json") -> dict[str, float | int]:
    """The values that replace the API's defaults in a request that does not set them. FieldError: a value that every
    such request would be refused for. `where`: the file that has them."""
    values = {name: value for name in RECOMMENDED if (value := generation_config.get(name)) is not None}
    if generation_config.get("do_sample") is False and any(name in values for name in SAMPLING):
        values = {name: value for name, value in values.items() if name not in SAMPLING} | {"temperature": 0.0}
    for name, value in values.items():
        try:
            check(SamplingParams(**{name: value}), 1)
        except RequestError as error:
            raise FieldError(f"{where}: {error}", field=name, value=value) from None
    return values
