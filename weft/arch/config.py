"""ModelConfig: what a model's config says, in one vocabulary. Knows no layout and no file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base, and the scaling dictionary of config.json (None: none)."""

    theta: float = 10000.0
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and switches of a dense decoder. head_dim is explicit (Qwen3's is not hidden / heads)."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int, ...] = ()
    """Sliding window of each layer in tokens (0: none); empty: none anywhere."""
    dtype: str = "bfloat16"
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    def window(self, layer: int) -> int:
        """Number of latest keys that `layer` sees; 0: all."""
        return self.windows[layer] if self.windows else 0
