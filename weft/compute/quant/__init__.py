"""Quantization formats, one module each: how a matrix is packed, and in torch what its values stand for.

A module gives `FORMAT`, a `base.QuantFormat`; its row of sizes is in `weft/base/weight_formats.py`.
"""
