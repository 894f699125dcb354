"""Model families, a file for each: how config.json is read, what tensors are called, what a block computes."""

from weft.parallel.arch.families.registry import FAMILIES, parse_config

__all__ = ["FAMILIES", "parse_config"]
