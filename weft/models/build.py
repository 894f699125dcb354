"""Builds a rank's Decoder from its parameters. Knows which layers a dense decoder has; no collective, no scheduler."""

from __future__ import annotations

from torch import Tensor

from weft.arch.config import ModelConfig
from weft.arch.shards import Shards
from weft.arch.spec import Cut
from weft.arch.stages import stage_layers
from weft.comm.base import Comm
from weft.layers import Attention, DenseMLP, Embedding, Experts, LatentAttention, LMHead, Norm, OProj, Params
from weft.layout.boundaries import Boundary, dense_boundaries
from weft.models.decoder import Decoder, DecoderLayer
from weft.models.dispatch import AllGather
from weft.models.transitions import Transitions
from weft.ops.base import Ops


def boundaries_of(shards: Shards) -> dict[str, Boundary]:
    """The boundaries of the model's forward pass under the layout."""
    config = shards.config
    return dense_boundaries(
        shards.layout,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.value_dim,
        vocab=config.vocab_size,
    )


def build_decoder(
    shards: Shards,
    params: Params,
    comm: Comm,
    ops: Ops,
    cos_sin: Tensor,
    transitions: Transitions | None = None,
    stage: int = 0,
) -> Decoder:
    """The decoder of rank `comm.rank`; `cos_sin` [max positions, head dim] is shared by all layers.

    `transitions`: what runs the boundaries, where that is not simply `comm`. `stage`: whose layers are built.
    """
    config, eps = shards.config, shards.config.rms_norm_eps
    vocab = shards.cuts[Cut.VOCAB_IN]
    transitions = transitions or Transitions(boundaries_of(shards), comm)
    lo = vocab[comm.rank % shards.layout.stage_size % len(vocab)][0]
    stages = stage_layers(shards.layout, config.num_layers)
    last = stage == len(stages) - 1
    layers = [_layer(config, index, params, shards, comm.rank, ops, cos_sin) for index in range(*stages[stage])]
    return Decoder(
        Embedding(params, lo, ops) if stage == 0 else None,
        layers,
        Norm(params, "norm", eps, ops) if last else None,
        LMHead(params, ops) if last else None,
        transitions,
        AllGather(transitions),
        ops,
        stages[stage][0],
    )


def _layer(
    config: ModelConfig, index: int, params: Params, shards: Shards, rank: int, ops: Ops, cos_sin: Tensor
) -> DecoderLayer:
    name, eps = f"layers.{index}", config.rms_norm_eps
    attention = LatentAttention if config.mla else Attention
    routed = config.has_experts(index)
    return DecoderLayer(
        attention_norm=Norm(params, f"{name}.attention_norm", eps, ops),
        attention=attention(params, f"{name}.attention", config, index, shards.head_share(rank), ops, cos_sin),
        o_proj=OProj(params, f"{name}.o_proj", ops),
        dense_norm=Norm(params, f"{name}.dense_norm", eps, ops),
        dense=None if routed else DenseMLP(params, f"{name}.dense", ops),
        experts=_experts(name, index, params, shards, rank, ops) if routed else None,
        shared_experts=_shared(name, params, config, ops) if routed else None,
    )


def _experts(name: str, layer: int, params: Params, shards: Shards, rank: int, ops: Ops) -> Experts:
    slots, moe = shards.slots, shards.config.moe
    assert slots is not None and moe is not None
    return Experts(params, name, moe, slots.map(layer), slots.of_rank(rank % shards.layout.stage_size), ops)


def _shared(name: str, params: Params, config: ModelConfig, ops: Ops) -> DenseMLP | None:
    assert config.moe is not None
    return DenseMLP(params, f"{name}.shared_experts", ops) if config.moe.shared_intermediate_size else None
