"""Quantization formats by name: that of row NAME of `weft/base/weight_formats.py` is `FORMAT` of module
weft.compute.quant.NAME."""

from __future__ import annotations

from importlib import import_module

from weft.base.weight_formats import FORMATS, format_name
from weft.compute.quant.base import QuantFormat


def format_of(name: str) -> QuantFormat:
    """The format of one row. KeyError: there is none."""
    if name not in FORMATS:
        raise KeyError(name)
    found: QuantFormat = import_module(f"weft.compute.quant.{name.lower()}").FORMAT
    return found


def format_for(quantization: str, lm_head: bool = False) -> QuantFormat | None:
    """What --quantization `quantization` rounds a matrix to; None: nothing."""
    name = format_name(quantization, lm_head)
    return None if name is None else format_of(name)
