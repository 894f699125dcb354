"""The default number of tokens of a KV block. No torch."""

from __future__ import annotations

from weft.base.settings import TOKENS_PER_BLOCK, EngineConfig
from weft.compute.native import kernels
from weft.parallel.arch.config import ModelConfig

TOKENS_OF_TILES = 32
"""Tokens whose values a tile register multiplies in one go (`kAmxStep` in amx_registers.h): of a block with half as
many it takes twice as many instructions."""


def block_size_of(engine: EngineConfig, dtype: str, config: ModelConfig, variant: str = "") -> int:
    """The one given, or what the kernels (`variant`, or this process's) are fastest with. Tile registers
    multiply heads of whole steps of the depth
    (`AmxAttention::fits`); latents are multiplied by other kernels."""
    if engine.block_size is not None:
        return engine.block_size
    heads = config.mla is None and config.head_dim % TOKENS_OF_TILES == 0
    packed = engine.device == "cpu" and dtype == "bfloat16" and heads
    return TOKENS_OF_TILES if packed and (variant or kernels()) == "amx" else TOKENS_PER_BLOCK
