"""Reading a config.json: what families have in common. Sources: the configuration classes of transformers 5."""

from __future__ import annotations

from weft.base.errors import FieldError
from weft.base.fields import Fields
from weft.base.plural import counted, up_to
from weft.parallel.arch.block import BlockSpec
from weft.parallel.arch.config import MOST_CHOICES, MLAConfig, ModelConfig, MoEConfig
from weft.parallel.arch.reading.rope import LAYER_TYPES, longest_position, read_local_rope, read_rope, rope_fields

REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
MOST_LAYERS, MOST_HEADS, MOST_WIDTH = 1 << 12, 1 << 14, 1 << 22
MOST_EXPERTS = 1 << 16
"""Largest sizes that are read: far beyond any model's, and small enough that lists of layers or experts are no harm."""
MOST_PLACED = 1 << 16
"""Experts of all layers together; Kimi K2 has 23,040."""
DTYPES = ("float32", "float16", "bfloat16", "float64")
SHARE = "partial_rotary_factor"
O_BIAS, MLP_BIAS = "weft_o_bias", "weft_mlp_bias"
"""Fields of no config.json: false where the files lack biases that the config speaks of (see
weft.model.checkpoint.forms)."""


def read_block(fields: Fields, *, partial: bool = False) -> BlockSpec:
    """The fields of a block that every family's config has; FieldError where a size of the model is missing. `partial`:
    the family's models may rotate a share of a head's dims."""
    missing = [key for key in REQUIRED if key not in fields]
    if missing:
        raise FieldError(f"{fields.where}: the model's config lacks {', '.join(missing)}", field=missing[0])
    if not fields.flag("is_causal", True):
        raise fields.wrong("is_causal", "true", "attention in both directions is not supported")
    activation = fields.text("hidden_act", "silu", longest=64)
    rope = rope_fields(fields)
    place = rope if SHARE in rope else fields
    share = place.number(SHARE, 1.0, high=1.0)
    if share != 1 and not partial:
        raise place.wrong(SHARE, "1.0", "models of this architecture rotate whole heads")
    return BlockSpec(activation="silu" if activation == "swish" else activation, rotary_share=share)


def read_config(
    fields: Fields, family: str, block: BlockSpec, *, moe: MoEConfig | None = None, mla: MLAConfig | None = None,
    theta: float = 10000.0, local_theta: float = 0.0,
) -> ModelConfig:  # fmt: skip
    """ModelConfig of `family`; sizes are those of config.json's usual fields. `theta`: the family's rotary base where
    none is given; `local_theta`: that of layers with a window, where they have one of their own."""
    heads, hidden = fields.whole("num_attention_heads", high=MOST_HEADS), fields.whole("hidden_size", high=MOST_WIDTH)
    # with latent attention every head reads the one latent in its own way
    kv_heads = heads if mla else fields.whole("num_key_value_heads", heads, high=heads)
    head_dim = mla.qk_dim if mla else _head_dim(fields, hidden, heads)
    _check_heads(fields, heads, kv_heads, head_dim)
    vocab, positions = fields.whole("vocab_size"), fields.whole("max_position_embeddings", 2048)
    if moe and moe.num_experts * layers_of(fields) > MOST_PLACED:
        raise FieldError(
            f"{fields.where}: {moe.num_experts} experts in each of {layers_of(fields)} layers; legal: {MOST_PLACED}"
            " in all layers together"
        )
    rotated = mla.rope_dim if mla else int(head_dim * block.rotary_share)
    if rotated % 2 or not rotated:
        raise FieldError(
            f"{fields.where}: {SHARE} {block.rotary_share}: {rotated} of {head_dim} dims of a head are rotated;"
            " legal: an even number, 2 or more", field=SHARE, value=block.rotary_share,
        )  # fmt: skip
    local = None
    if local_theta:
        rope, local = read_local_rope(fields, positions, (theta, local_theta), rotated)
    else:
        rope = read_rope(fields, positions, theta, rotated)
    method = fields.inner("quantization_config") or fields.inner("compression_config")
    return ModelConfig(
        family=family,
        hidden_size=hidden,
        intermediate_size=fields.whole("intermediate_size", high=MOST_WIDTH),
        num_layers=layers_of(fields),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_position=positions,
        longest_position=longest_position(rope, positions),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0, above=False),
        rope=rope,
        local_rope=local,
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        block=block,
        dtype=_dtype(fields),
        eos_token_ids=fields.ids("eos_token_id"),
        bos_token_id=next(iter(fields.ids("bos_token_id")), None),
        moe=moe,
        mla=mla,
        quantization="" if method is None else method.text("quant_method", "unknown", longest=64),
        column_block=fields.whole("weft_column_block", 1),
    )


def layers_of(fields: Fields) -> int:
    """Number of decoder layers."""
    return fields.whole("num_hidden_layers", high=MOST_LAYERS)


def attention_biases(fields: Fields, key: str = "attention_bias") -> tuple[bool, bool]:
    """Whether q, k and v have biases, and whether o has one."""
    given = fields.flag(key, False)
    return given, given and fields.flag(O_BIAS, True)


def every_window(fields: Fields, used: bool = True) -> tuple[int, ...]:
    """Each layer's window where all have the same: `sliding_window`, if it is `used`."""
    window, kinds = _window(fields, used), {*_layer_kinds(fields)}
    if len(kinds) > 1 or (kinds == {LAYER_TYPES[1]} and not window):
        raise fields.wrong("layer_types", f"one kind for all layers, {LAYER_TYPES[1]} only with a sliding_window")
    return (window,) * layers_of(fields) if window else ()


def no_windows(fields: Fields) -> None:
    """FieldError: the config has a window that this model's layers do not have, and transformers' cache has."""
    kinds, window = _layer_kinds(fields), _window(fields)
    sliding = LAYER_TYPES[1] in kinds or not kinds
    if sliding and 0 < window < fields.whole("max_position_embeddings", 2048):
        raise fields.wrong("sliding_window", "null", "windows of attention are not supported for this architecture")


def named_windows(fields: Fields) -> tuple[int, ...]:
    """Each layer's window: `sliding_window` in the layers that `layer_types` names, in all where there are none."""
    kinds, window = _layer_kinds(fields), _window(fields)
    if LAYER_TYPES[1] in kinds and not window:
        raise fields.wrong("layer_types", f"{LAYER_TYPES[0]} alone, without a sliding_window")
    windows = [window if not kinds or kind == LAYER_TYPES[1] else 0 for kind in kinds or ("",) * layers_of(fields)]
    return tuple(windows) if any(windows) else ()


def _window(fields: Fields, used: bool = True) -> int:
    return fields.whole("sliding_window", 0, low=0) if used else 0


def upper_windows(fields: Fields) -> tuple[int, ...]:
    """Each layer's window in Qwen's configs: `sliding_window`, if it is used, in the layers that `layer_types` names,
    else in those from `max_window_layers` on."""
    layers, used, kinds = layers_of(fields), fields.flag("use_sliding_window", False), _layer_kinds(fields)
    window = _window(fields, used)
    first = fields.whole("max_window_layers", 0, low=0)
    chosen = [kind == LAYER_TYPES[1] for kind in kinds] if kinds else [layer >= first for layer in range(layers)]
    if kinds and any(chosen) and not window:
        raise fields.wrong("layer_types", f"{LAYER_TYPES[0]} alone, without use_sliding_window and sliding_window")
    return tuple(window if each else 0 for each in chosen) if window and any(chosen) else ()


def _layer_kinds(fields: Fields) -> tuple[str, ...]:
    """`layer_types`: none, or one for each layer."""
    layers, kinds = layers_of(fields), fields.texts("layer_types")
    unknown = next((kind for kind in kinds if kind not in LAYER_TYPES), None)
    if unknown is not None or (kinds and len(kinds) != layers):
        wanted = f"{layers} of {' and '.join(LAYER_TYPES)}, one for each layer"
        raise fields.wrong("layer_types", wanted, f"it has {len(kinds)}" if unknown is None else f"not {unknown[:40]}")
    return kinds


def checked_experts(fields: Fields, moe: MoEConfig) -> MoEConfig:
    """`moe`; FieldError for choices or groups that its experts cannot have."""
    most = min(moe.num_experts, MOST_CHOICES)
    if not 1 <= moe.top_k <= most:
        raise FieldError(
            f"{fields.where}: num_experts_per_tok {moe.top_k}: the model has {counted(moe.num_experts, 'expert')};"
            f" legal: {up_to(most)}",
            field="num_experts_per_tok",
            value=moe.top_k,
        )
    size = moe.num_experts // moe.groups
    if moe.num_experts % moe.groups or not 1 <= moe.top_groups <= moe.groups or size < moe.group_best:
        raise FieldError(
            f"{fields.where}: n_group {moe.groups}, topk_group {moe.top_groups}: {moe.num_experts} experts cannot be"
            f" grouped so; legal: a divisor of {moe.num_experts}, and at most as many groups chosen",
            field="n_group",
            value=moe.groups,
        )
    if moe.top_k > size * moe.top_groups:
        raise FieldError(
            f"{fields.where}: num_experts_per_tok {moe.top_k}: {moe.top_groups} groups of {size} experts are looked at;"
            f" legal: {up_to(size * moe.top_groups)}",
            field="num_experts_per_tok",
            value=moe.top_k,
        )
    return moe


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    if "head_dim" not in fields and (hidden % heads or hidden < heads):
        raise fields.wrong("head_dim", "a whole number", f"hidden_size {hidden} is not a multiple of {heads} heads")
    return fields.whole("head_dim", hidden // heads, high=MOST_WIDTH)


def _dtype(fields: Fields) -> str:
    """The dtype that the config names; older ones name it torch_dtype."""
    key = "dtype" if "dtype" in fields else "torch_dtype"
    name = fields.text(key, "float32", longest=64).removeprefix("torch.")
    if name in ("auto", *DTYPES):
        return "float32" if name == "auto" else name
    raise fields.wrong(key, ", ".join(DTYPES))


def _check_heads(fields: Fields, heads: int, kv_heads: int, head_dim: int) -> None:
    if heads % kv_heads:
        raise FieldError(
            f"{fields.where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            field="num_key_value_heads",
            value=kv_heads,
        )
    if head_dim % 2:
        raise FieldError(
            f"{fields.where}: head_dim {head_dim}: rotary embedding needs an even one", field="head_dim", value=head_dim
        )
