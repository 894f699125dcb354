"""Reading a config.json: what families have in common. Sources: the configuration classes of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weft.arch.block import BlockSpec
from weft.arch.config import MOST_CHOICES, MLAConfig, ModelConfig, MoEConfig, RopeConfig
from weft.arch.family import Raw
from weft.errors import ConfigError
from weft.plural import counted, up_to

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def read_block(raw: Raw) -> BlockSpec:
    """The fields of a block that every family's config has; ConfigError where a size of the model is missing."""
    missing = [key for key in REQUIRED if raw.get(key) is None]
    if missing:
        raise ConfigError(f"the model's config lacks {', '.join(missing)}", field=missing[0])
    activation = str(raw.get("hidden_act") or raw.get("hidden_activation") or "silu")
    return BlockSpec(
        activation="silu" if activation == "swish" else activation,
        rotary_share=float(raw.get("partial_rotary_factor", 1.0)),
    )


def read_config(
    raw: Raw, family: str, block: BlockSpec, *, moe: MoEConfig | None = None, mla: MLAConfig | None = None
) -> ModelConfig:
    """ModelConfig of `family`; sizes are those of config.json's usual fields."""
    heads, hidden = size(raw, "num_attention_heads"), size(raw, "hidden_size")
    # with latent attention every head reads the one latent in its own way
    kv_heads = heads if mla else size(raw, "num_key_value_heads", heads)
    head_dim = mla.qk_dim if mla else size(raw, "head_dim", hidden // heads)
    _check_heads(heads, kv_heads, head_dim)
    return ModelConfig(
        family=family,
        hidden_size=hidden,
        intermediate_size=size(raw, "intermediate_size"),
        num_layers=size(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=size(raw, "vocab_size"),
        max_position=size(raw, "max_position_embeddings", 2048),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=_rope(raw),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        block=block,
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        bos_token_id=raw.get("bos_token_id"),
        moe=moe,
        mla=mla,
        quantization=str((raw.get("quantization_config") or {}).get("quant_method", "")),
        column_block=size(raw, "weft_column_block", 1),
    )


def size(raw: Raw, key: str, default: int | None = None) -> int:
    """A positive integer; ConfigError for anything else."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key} {value!r}: a positive integer is needed", field=key, value=value)
    return value


def token_ids(value: Any) -> tuple[int, ...]:
    """A token id, a list of them or nothing, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (int(value),)


def windows(raw: Raw, in_layer: Iterable[bool]) -> tuple[int, ...]:
    """Each layer's window: `sliding_window` where config.json's `layer_types` say so, else where `in_layer` does."""
    window, layers = raw.get("sliding_window"), size(raw, "num_hidden_layers")
    if window is None:
        return ()
    kinds = raw.get("layer_types")
    chosen = [kind == "sliding_attention" for kind in kinds] if kinds else list(in_layer)
    if len(chosen) != layers:
        raise ConfigError(f"layer_types names {len(chosen)} layers, num_hidden_layers is {layers}", field="layer_types")
    return tuple(int(window) if each else 0 for each in chosen) if window and any(chosen) else ()


def upper_layers(raw: Raw) -> list[bool]:
    """The layers that Qwen's and DeepSeek's configs give a window: those from `max_window_layers` on, if any."""
    layers = size(raw, "num_hidden_layers")
    first = int(raw.get("max_window_layers", layers)) if raw.get("use_sliding_window", False) else layers
    return [layer >= first for layer in range(layers)]


def checked_experts(moe: MoEConfig) -> MoEConfig:
    """`moe`; ConfigError for choices or groups that its experts cannot have."""
    most = min(moe.num_experts, MOST_CHOICES)
    if not 1 <= moe.top_k <= most:
        raise ConfigError(
            f"num_experts_per_tok {moe.top_k}: the model has {counted(moe.num_experts, 'expert')};"
            f" legal: {up_to(most)}",
            field="num_experts_per_tok",
            value=moe.top_k,
        )
    if moe.num_experts % moe.groups or not 1 <= moe.top_groups <= moe.groups:
        raise ConfigError(
            f"n_group {moe.groups}, topk_group {moe.top_groups}: {moe.num_experts} experts cannot be grouped so",
            field="n_group",
            value=moe.groups,
        )
    return moe


def _check_heads(heads: int, kv_heads: int, head_dim: int) -> None:
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            field="num_key_value_heads",
            value=kv_heads,
        )
    if head_dim % 2:
        raise ConfigError(f"head_dim {head_dim}: rotary embedding needs an even one", field="head_dim", value=head_dim)


def _rope(raw: Raw) -> RopeConfig:
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = parameters.get("rope_theta", raw.get("rope_theta")) or 10000.0
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return RopeConfig(float(theta))
    if kind not in ROPE_TYPES:
        raise ConfigError(
            f"rope type {kind}: legal: {', '.join(ROPE_TYPES)}", field="rope_scaling", value=kind, legal=ROPE_TYPES
        )
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_theta", "type")}
    return RopeConfig(float(theta), {**scaling, "rope_type": kind})
