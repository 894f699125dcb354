"""EngineConfig: the limits of an engine, under vLLM's names. Knows no model, layout or device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """User's settings as given; None means 'decided at start and printed'."""

    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    kv_cache_memory: int | None = None  # bytes per rank
    mem_fraction_static: float | None = None
    enable_prefix_caching: bool = True
    seed: int = 0
    served_model_name: str | None = None
    device: str = "cpu"
