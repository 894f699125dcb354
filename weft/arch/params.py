"""param_specs: every weight of a model, from its config. Knows no layout."""

from __future__ import annotations

from collections.abc import Iterator

from weft.arch.config import ModelConfig
from weft.arch.mla_params import mla_specs
from weft.arch.moe_params import moe_specs
from weft.arch.spec import Cut, ParamSpec

__all__ = ["Cut", "ParamSpec", "param_specs"]


def param_specs(config: ModelConfig, experts: int | None = None) -> tuple[ParamSpec, ...]:
    """Every weight of the model, in the order of a forward pass. A tied lm_head names the embedding's tensor again.

    `experts`: only so many of each layer's routed experts (all are alike; counting needs one).
    """
    c = config
    vocab = (c.vocab_size, c.hidden_size)
    head = "model.embed_tokens.weight" if c.tie_embeddings else "lm_head.weight"
    layers = [spec for layer in range(c.num_layers) for spec in _layer(c, layer, experts)]
    return (
        ParamSpec("model.embed_tokens.weight", vocab, "embedding", "embedding.weight", dim=0, cut=Cut.VOCAB_IN),
        *layers,
        ParamSpec("model.norm.weight", (c.hidden_size,), "norm", "norm.weight"),
        ParamSpec(head, vocab, "lm_head", "lm_head.weight", dim=0, cut=Cut.VOCAB_OUT),
    )


def _layer(c: ModelConfig, layer: int, experts: int | None) -> Iterator[ParamSpec]:
    src, dst = f"model.layers.{layer}", f"layers.{layer}"
    yield ParamSpec(f"{src}.input_layernorm.weight", (c.hidden_size,), "norm", f"{dst}.attention_norm.weight")
    attention = mla_specs if c.mla else _attention
    yield from attention(c, f"{src}.self_attn", f"{dst}.attention")
    q_size = c.num_heads * c.value_dim
    o = f"{src}.self_attn.o_proj"
    yield ParamSpec(f"{o}.weight", (c.hidden_size, q_size), "o_proj", f"{dst}.o_proj.weight", dim=1, cut=Cut.O_IN)
    if c.o_bias:
        yield ParamSpec(f"{o}.bias", (c.hidden_size,), "o_proj", f"{dst}.o_proj.bias")
    yield ParamSpec(f"{src}.post_attention_layernorm.weight", (c.hidden_size,), "norm", f"{dst}.dense_norm.weight")
    if c.has_experts(layer):
        yield from moe_specs(c, src, dst, experts)
    else:
        yield from _mlp(c, f"{src}.mlp", f"{dst}.dense")


def _attention(c: ModelConfig, src: str, dst: str) -> Iterator[ParamSpec]:
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    rows = (("q", q_size, Cut.Q), ("k", kv_size, Cut.KV), ("v", kv_size, Cut.KV))
    for part, (name, size, cut) in enumerate(rows):
        shape = (size, c.hidden_size)
        yield ParamSpec(f"{src}.{name}_proj.weight", shape, "attention", f"{dst}.qkv.weight", part, 0, cut)
    if c.qkv_bias:
        for part, (name, size, cut) in enumerate(rows):
            yield ParamSpec(f"{src}.{name}_proj.bias", (size,), "attention", f"{dst}.qkv.bias", part, 0, cut)
    if c.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield ParamSpec(f"{src}.{name}.weight", (c.head_dim,), "attention", f"{dst}.{name}.weight")


def _mlp(c: ModelConfig, src: str, dst: str) -> Iterator[ParamSpec]:
    wide, cut = c.intermediate_size, Cut.INTERMEDIATE
    for part, name in enumerate(("gate", "up")):
        yield ParamSpec(
            f"{src}.{name}_proj.weight", (wide, c.hidden_size), "dense", f"{dst}.gate_up.weight", part, 0, cut
        )
    if c.mlp_bias:
        for part, name in enumerate(("gate", "up")):
            yield ParamSpec(f"{src}.{name}_proj.bias", (wide,), "dense", f"{dst}.gate_up.bias", part, 0, cut)
    yield ParamSpec(f"{src}.down_proj.weight", (c.hidden_size, wide), "dense", f"{dst}.down.weight", 0, 1, cut)
    if c.mlp_bias:
        yield ParamSpec(f"{src}.down_proj.bias", (c.hidden_size,), "dense", f"{dst}.down.bias")
