"""ModelConfig: what a model's config says, in the same words for all families and file formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from weft.parallel.arch.block import BlockSpec, Rope

MOST_CHOICES = 64
"""Experts that a row may go to (`kMostChoices` of the step library)."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base, and the scaling dictionary of config.json (None: none)."""

    theta: float = 10000.0
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """Routed experts. `first_layer` and `step`: layer l has experts where l >= first_layer and (l + 1) % step == 0, but
    not where l is in `dense_layers`. `score`: softmax over all experts, or sigmoid of each.

    `normalize`: the chosen scores are divided by their sum; then multiplied by `scale`. `groups` > 1: only the
    `top_groups` best groups of experts are looked at; a group's score is its best expert's (`group_best` 1) or the sum
    of its two best (2). `correction_bias`: added to the scores for the choice alone (DeepSeek-V3's report, 2.1.2).
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    first_layer: int = 0
    step: int = 1
    dense_layers: tuple[int, ...] = ()
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalize: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    correction_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MLAConfig:
    """Multi-head latent attention (DeepSeek-V2's report, 2.1): ranks of the latents and dims of a head.

    `q_lora_rank` 0: queries are projected in one step. The cache holds `kv_lora_rank + rope_dim` numbers a token.
    """

    q_lora_rank: int
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    interleaved: bool = True
    """Whether rotated pairs stand side by side in the checkpoint's rows (else half a head apart)."""

    @property
    def qk_dim(self) -> int:
        """Dims of a query head."""
        return self.nope_dim + self.rope_dim

    @property
    def latent_dim(self) -> int:
        """Numbers that the cache holds for a token and layer."""
        return self.kv_lora_rank + self.rope_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and switches of a decoder. head_dim is explicit (Qwen3's is not hidden / heads); with MLA it is unused."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    """Positions that the model was made for: what the config says."""
    longest_position: int = 0
    """Positions that it may be asked for: more, where the rotary embedding is scaled."""
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    local_rope: RopeConfig | None = None
    """That of the layers whose rope is "local"."""
    tie_embeddings: bool = False
    block: BlockSpec = BlockSpec()
    moe: MoEConfig | None = None
    mla: MLAConfig | None = None
    quantization: str = ""
    """Method of quantized safetensors (fp8, awq ...), which can be explained but not loaded; empty: none."""
    column_block: int = 1
    """Columns that the checkpoint's number format keeps together; cuts of a weight's columns keep to its edges."""
    dtype: str = "bfloat16"
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        if not self.longest_position:
            object.__setattr__(self, "longest_position", self.max_position)

    @property
    def context(self) -> int:
        """Positions that are served where no number is asked for. A dynamic scaling turns every row by the longest
        length that is served, so more than the model was made for is for a person to ask."""
        dynamic = (self.rope.scaling or {}).get("rope_type") == "dynamic"
        return self.max_position if dynamic else self.longest_position

    @property
    def query_dim(self) -> int:
        """Dims of a query head."""
        return self.mla.qk_dim if self.mla else self.head_dim

    @property
    def value_dim(self) -> int:
        """Dims that a head gives to o_proj."""
        return self.mla.v_dim if self.mla else self.head_dim

    @property
    def rope_dim(self) -> int:
        """Dims of a head that are rotated."""
        return self.mla.rope_dim if self.mla else int(self.head_dim * self.block.rotary_share)

    def rope_kind(self, layer: int) -> Rope:
        """Which rotary embedding `layer` has."""
        return self.block.ropes[layer] if self.block.ropes else "global"

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer that has any; 0 for a dense model."""
        return self.moe.num_experts if self.moe else 0

    def has_experts(self, layer: int) -> bool:
        """Whether `layer` has routed experts in place of a dense MLP."""
        moe = self.moe
        return (
            moe is not None
            and layer >= moe.first_layer
            and (layer + 1) % moe.step == 0
            and layer not in moe.dense_layers
        )

    @property
    def softmax_scale(self) -> float:
        """Factor of q . k before the softmax."""
        return float(self.query_dim) ** -0.5 if self.block.softmax_scale is None else self.block.softmax_scale

    def window(self, layer: int) -> int:
        """Number of latest keys that `layer` sees; 0: all."""
        return self.block.windows[layer] if self.block.windows else 0
