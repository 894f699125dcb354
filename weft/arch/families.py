"""The model families weft runs, and how each one's config.json becomes a ModelConfig. Knows no layout and no weights.

Sources: the `config.json` conventions of transformers (its configuration_llama, _mistral, _qwen2, _qwen3 modules).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from weft.arch.config import MOST_CHOICES, MLAConfig, ModelConfig, MoEConfig, RopeConfig
from weft.errors import ConfigError
from weft.plural import counted, up_to

Raw = Mapping[str, Any]

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def parse_config(raw: Raw) -> ModelConfig:
    """ModelConfig of a config.json dictionary; ConfigError names the field, its value and what is supported."""
    family = _family(raw)
    _refuse_what_is_not_run(raw)
    missing = [key for key in REQUIRED if raw.get(key) is None]
    if missing:
        raise ConfigError(f"the model's config lacks {', '.join(missing)}", field=missing[0])
    heads, hidden = _size(raw, "num_attention_heads"), _size(raw, "hidden_size")
    kv_heads = _size(raw, "num_key_value_heads", heads)
    mla = _mla(raw) if family.startswith("deepseek") else None
    if mla is not None:
        kv_heads = heads  # every head reads the one latent in its own way
    head_dim = mla.qk_dim if mla else _size(raw, "head_dim", hidden // heads)
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            field="num_key_value_heads",
            value=kv_heads,
        )
    if head_dim % 2:
        raise ConfigError(f"head_dim {head_dim}: rotary embedding needs an even one", field="head_dim", value=head_dim)
    return ModelConfig(
        family=family,
        hidden_size=hidden,
        intermediate_size=_size(raw, "intermediate_size"),
        num_layers=_size(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_size(raw, "vocab_size"),
        max_position=_size(raw, "max_position_embeddings", 2048),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=_rope(raw),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        bos_token_id=raw.get("bos_token_id"),
        windows=_windows(family, raw),
        moe=_EXPERTS[family](raw) if family in _EXPERTS else None,
        mla=mla,
        quantization=str((raw.get("quantization_config") or {}).get("quant_method", "")),
        column_block=_size(raw, "weft_column_block", 1),
        **FAMILIES[family](raw),
    )


def token_ids(value: Any) -> tuple[int, ...]:
    """A token id, a list of them or nothing, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (int(value),)


def _llama(raw: Raw) -> dict[str, bool]:
    bias = bool(raw.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": bool(raw.get("mlp_bias", False))}


def _mistral(raw: Raw) -> dict[str, bool]:
    return {}


def _qwen2(raw: Raw) -> dict[str, bool]:
    return {"qkv_bias": True}


def _qwen3(raw: Raw) -> dict[str, bool]:
    bias = bool(raw.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True}


def _deepseek(raw: Raw) -> dict[str, bool]:
    if raw.get("attention_bias", False):
        raise ConfigError("attention_bias true: not supported for DeepSeek", field="attention_bias", value=True)
    return {}


def _mla(raw: Raw) -> MLAConfig:
    return MLAConfig(
        q_lora_rank=_size(raw, "q_lora_rank") if raw.get("q_lora_rank") is not None else 0,
        kv_lora_rank=_size(raw, "kv_lora_rank"),
        nope_dim=_size(raw, "qk_nope_head_dim"),
        rope_dim=_size(raw, "qk_rope_head_dim"),
        v_dim=_size(raw, "v_head_dim"),
        interleaved=bool(raw.get("rope_interleave", True)),
    )


def _mixtral_experts(raw: Raw) -> MoEConfig:
    return _checked_experts(
        MoEConfig(
            num_experts=_size(raw, "num_local_experts"),
            top_k=_size(raw, "num_experts_per_tok", 2),
            intermediate_size=_size(raw, "intermediate_size"),
        )
    )


def _qwen3_experts(raw: Raw) -> MoEConfig:
    return _checked_experts(
        MoEConfig(
            num_experts=_size(raw, "num_experts", raw.get("num_local_experts")),
            top_k=_size(raw, "num_experts_per_tok", 8),
            intermediate_size=_size(raw, "moe_intermediate_size"),
            step=_size(raw, "decoder_sparse_step", 1),
            dense_layers=tuple(raw.get("mlp_only_layers") or ()),
            normalize=bool(raw.get("norm_topk_prob", False)),
        )
    )


def _deepseek_experts(raw: Raw) -> MoEConfig:
    wide = _size(raw, "moe_intermediate_size")
    third = raw.get("model_type") == "deepseek_v3" or "DeepseekV3ForCausalLM" in (raw.get("architectures") or ())
    grouped = third or raw.get("topk_method") == "group_limited_greedy"
    return _checked_experts(
        MoEConfig(
            num_experts=_size(raw, "n_routed_experts", raw.get("num_local_experts")),
            top_k=_size(raw, "num_experts_per_tok"),
            intermediate_size=wide,
            shared_intermediate_size=wide * int(raw.get("n_shared_experts") or 0),
            first_layer=int(raw.get("first_k_dense_replace", 0)),
            step=int(raw.get("moe_layer_freq", 1)),
            score="sigmoid" if third else "softmax",
            normalize=third and bool(raw.get("norm_topk_prob", True)),
            scale=float(raw.get("routed_scaling_factor", 1.0)),
            groups=_size(raw, "n_group", 1) if grouped else 1,
            top_groups=_size(raw, "topk_group", 1) if grouped else 1,
            group_best=2 if third else 1,
            correction_bias=third,
        )
    )


def _checked_experts(moe: MoEConfig) -> MoEConfig:
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


_EXPERTS = {
    "mixtral": _mixtral_experts,
    "qwen3_moe": _qwen3_experts,
    "deepseek_v2": _deepseek_experts,
    "deepseek_v3": _deepseek_experts,
}
FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mixtral": _mistral,
    "qwen3_moe": _qwen3,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}


def _family(raw: Raw) -> str:
    names = raw.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    if not names and raw.get("model_type") in FAMILIES:
        return str(raw["model_type"])
    given = str(names[0] if names else raw.get("model_type"))
    near = difflib.get_close_matches(given, ARCHITECTURES, n=1, cutoff=0.8)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ConfigError(
        f"architecture {given} is not supported{hint}; supported: {', '.join(ARCHITECTURES)}",
        field="architectures",
        value=given,
        legal=tuple(ARCHITECTURES),
    )


def _refuse_what_is_not_run(raw: Raw) -> None:
    act = raw.get("hidden_act") or raw.get("hidden_activation") or "silu"
    if act not in ("silu", "swish"):
        raise ConfigError(f"hidden_act {act}: only silu is supported", field="hidden_act", value=act, legal=("silu",))
    if float(raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ConfigError(
            f"partial_rotary_factor {raw['partial_rotary_factor']}: only 1.0 is supported",
            field="partial_rotary_factor",
            value=raw["partial_rotary_factor"],
            legal=(1.0,),
        )


def _size(raw: Raw, key: str, default: int | None = None) -> int:
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key} {value!r}: a positive integer is needed", field=key, value=value)
    return value


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


def _windows(family: str, raw: Raw) -> tuple[int, ...]:
    window, layers = raw.get("sliding_window"), raw["num_hidden_layers"]
    if window is None or family == "llama":
        return ()
    if kinds := raw.get("layer_types"):
        windows = tuple(int(window) if kind == "sliding_attention" else 0 for kind in kinds)
    elif family in ("mistral", "mixtral"):
        windows = (int(window),) * layers
    elif not raw.get("use_sliding_window", False):
        return ()
    else:
        first = int(raw.get("max_window_layers", layers))
        windows = tuple(int(window) if layer >= first else 0 for layer in range(layers))
    if len(windows) != layers:
        raise ConfigError(
            f"layer_types names {len(windows)} layers, num_hidden_layers is {layers}", field="layer_types"
        )
    return windows if any(windows) else ()
