"""param_specs: every weight of a model, from its config and its family's names. Numbers only; no layout."""

from __future__ import annotations

from collections.abc import Iterator

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.registry import FAMILIES
from weft.parallel.arch.family import TensorNames
from weft.parallel.arch.mla_params import mla_specs
from weft.parallel.arch.moe_params import moe_specs
from weft.parallel.arch.spec import Cut, ParamSpec

__all__ = ["Cut", "ParamSpec", "param_specs"]


def param_specs(config: ModelConfig, experts: int | None = None) -> tuple[ParamSpec, ...]:
    """Every weight of the model, in the order of a forward pass. A tied lm_head names the embedding's tensor again.

    `experts`: only so many of each layer's routed experts (all are alike; counting needs one).
    """
    c, names = config, FAMILIES[config.family].names
    vocab = (c.vocab_size, c.hidden_size)
    head = names.embedding if c.tie_embeddings else names.lm_head
    layers = [spec for layer in range(c.num_layers) for spec in _layer(c, names, layer, experts)]
    return (
        ParamSpec(f"{names.embedding}.weight", vocab, "embedding", "embedding.weight", dim=0, cut=Cut.VOCAB_IN),
        *layers,
        ParamSpec(f"{names.norm}.weight", (c.hidden_size,), "norm", "norm.weight"),
        ParamSpec(f"{head}.weight", vocab, "lm_head", "lm_head.weight", dim=0, cut=Cut.VOCAB_OUT),
    )


def _layer(c: ModelConfig, names: TensorNames, layer: int, experts: int | None) -> Iterator[ParamSpec]:
    src, dst = names.layer.format(layer), f"layers.{layer}"
    yield ParamSpec(f"{src}.{names.attention_norm}.weight", (c.hidden_size,), "norm", f"{dst}.attention_norm.weight")
    attention = mla_specs if c.mla else _attention
    yield from attention(c, names, f"{src}.{names.attention}", f"{dst}.attention")
    q_size = c.num_heads * c.value_dim
    o = f"{src}.{names.attention}.{names.o_proj}"
    yield ParamSpec(f"{o}.weight", (c.hidden_size, q_size), "o_proj", f"{dst}.o_proj.weight", dim=1, cut=Cut.O_IN)
    if c.block.o_bias:
        yield ParamSpec(f"{o}.bias", (c.hidden_size,), "o_proj", f"{dst}.o_proj.bias")
    yield ParamSpec(f"{src}.{names.dense_norm}.weight", (c.hidden_size,), "norm", f"{dst}.dense_norm.weight")
    if c.has_experts(layer):
        yield from moe_specs(c, names, f"{src}.{names.experts}", dst, experts)
    else:
        yield from _mlp(c, names, f"{src}.{names.dense}", f"{dst}.dense")


def _attention(c: ModelConfig, names: TensorNames, src: str, dst: str) -> Iterator[ParamSpec]:
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    rows = tuple(zip(names.qkv, ((q_size, Cut.Q), (kv_size, Cut.KV), (kv_size, Cut.KV)), strict=True))
    for part, (name, (size, cut)) in enumerate(rows):
        shape = (size, c.hidden_size)
        yield ParamSpec(f"{src}.{name}.weight", shape, "attention", f"{dst}.qkv.weight", part, 0, cut)
    if c.block.qkv_bias:
        for part, (name, (size, cut)) in enumerate(rows):
            yield ParamSpec(f"{src}.{name}.bias", (size,), "attention", f"{dst}.qkv.bias", part, 0, cut)
    if c.block.qk_norm == "head":
        for name, own in zip(names.qk_norms, ("q_norm", "k_norm"), strict=True):
            yield ParamSpec(f"{src}.{name}.weight", (c.head_dim,), "attention", f"{dst}.{own}.weight")


def _mlp(c: ModelConfig, names: TensorNames, src: str, dst: str) -> Iterator[ParamSpec]:
    wide, cut = c.intermediate_size, Cut.INTERMEDIATE
    for part, name in enumerate(names.gate_up):
        yield ParamSpec(f"{src}.{name}.weight", (wide, c.hidden_size), "dense", f"{dst}.gate_up.weight", part, 0, cut)
    if c.block.mlp_bias:
        for part, name in enumerate(names.gate_up):
            yield ParamSpec(f"{src}.{name}.bias", (wide,), "dense", f"{dst}.gate_up.bias", part, 0, cut)
    down = f"{src}.{names.down}"
    yield ParamSpec(f"{down}.weight", (c.hidden_size, wide), "dense", f"{dst}.down.weight", 0, 1, cut)
    if c.block.mlp_bias:
        yield ParamSpec(f"{down}.bias", (c.hidden_size,), "dense", f"{dst}.down.bias")
