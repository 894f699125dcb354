"""Quantization formats by name: that of row NAME of `weft/base/weight_formats.py` is `FORMAT` of module
weft.compute.quant.NAME. Blocks of files that are only unpacked need no module."""

from __future__ import annotations

from importlib import import_module

from weft.base.weight_formats import FORMATS, Chosen, format_name
from weft.compute.quant.base import QuantFormat


def format_of(name: str) -> QuantFormat:
    """The format of one row. KeyError: there is none."""
    row = FORMATS[name]
    if row.chosen is Chosen.FILE and not row.kept:
        unpacked: QuantFormat = import_module("weft.compute.quant.package_blocks").PackageBlocks(name)
        return unpacked
    found: QuantFormat = import_module(f"weft.compute.quant.{name.lower()}").FORMAT
    return found


def format_for(quantization: str, lm_head: bool = False) -> QuantFormat | None:
    """What --quantization `quantization` rounds a matrix to; None: nothing."""
    name = format_name(quantization, lm_head)
    return None if name is None else format_of(name)
