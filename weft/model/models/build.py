"""Builds a rank's Decoder from its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.compute.comm.base import Comm
from weft.compute.ops.base import RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers import Attention, DenseMLP, Embedding, Experts, LatentAttention, LMHead, Norm, OProj, Params
from weft.model.models.decoder import Decoder, DecoderLayer
from weft.model.models.dispatch import AllGather, AllToAll, SplitsOf, TokenDispatcher, counted_splits
from weft.model.models.kv_exchange import KVExchange
from weft.model.models.transitions import Transitions
from weft.parallel.arch.block import refuse_not_run
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import Cut
from weft.parallel.arch.stages import stage_layers
from weft.parallel.layout.splits import attended_heads


def build_decoder(
    shards: Shards,
    params: Params,
    comm: Comm,
    ops: Ops,
    ropes: Sequence[RotaryTables],
    transitions: Transitions | None = None,
    stage: int = 0,
    splits: SplitsOf = counted_splits,
    slot_tables: Mapping[int, SlotTables] | None = None,
    dispatcher: TokenDispatcher | None = None,
    kv_exchange: KVExchange | None = None,
) -> Decoder:
    """The decoder of rank `comm.rank`; `ropes`: of each of the model's layers.

    `transitions`: what runs the boundaries, where that is not simply `comm`. `stage`: whose layers are built. `splits`:
    sizes of routed messages, where rows have no content to count. `slot_tables`: of layers' experts, by number, where
    they are those of another decoder. `dispatcher`: of routed rows, `kv_exchange`: of owners of a KV cache, where it is
    not the layout's. ConfigError for a block with a value that no operation computes.
    """
    config, eps = shards.config, shards.config.rms_norm_eps
    refuse_not_run(config.block, latent=config.mla is not None)
    vocab = shards.cuts[Cut.VOCAB_IN]
    transitions = transitions or Transitions(shards.forward_plan.boundaries, comm)
    lo = vocab[comm.rank % shards.layout.stage_size % len(vocab)][0]
    stages = stage_layers(shards.layout, config.num_layers)
    last = stage == len(stages) - 1
    if shards.layout.kv_owners > 1 and kv_exchange is None:
        kv_exchange = KVExchange(shards, comm.rank, transitions)
    layers = [
        _layer(config, index, params, shards, comm.rank, ops, ropes[index], (slot_tables or {}).get(index))
        for index in range(*stages[stage])
    ]
    return Decoder(
        Embedding(params, lo, ops) if stage == 0 else None,
        layers,
        Norm(params, "norm", eps, ops) if last else None,
        LMHead(params, ops) if last else None,
        transitions,
        dispatcher or make_dispatcher(shards, transitions, splits),
        ops,
        stages[stage][0],
        kv_exchange,
    )


def make_dispatcher(shards: Shards, transitions: Transitions, splits: SplitsOf) -> TokenDispatcher:
    """The form that the layout runs; a dense model asks none."""
    exchanges = shards.forward_plan.exchanges
    return AllToAll(transitions, exchanges[0].block, splits) if exchanges else AllGather(transitions)


def _layer(
    config: ModelConfig,
    index: int,
    params: Params,
    shards: Shards,
    rank: int,
    ops: Ops,
    rope: RotaryTables,
    tables: SlotTables | None,
) -> DecoderLayer:
    name, eps = f"layers.{index}", config.rms_norm_eps
    attention = LatentAttention if config.mla else Attention
    routed, own, sizes = config.has_experts(index), shards.head_share(rank), shards.layout.attention
    attended = attended_heads(shards.heads, rank % sizes.tp, sizes.kv_split)
    return DecoderLayer(
        attention_norm=Norm(params, f"{name}.attention_norm", eps, ops),
        attention=attention(params, f"{name}.attention", config, index, own, ops, rope, attended),
        o_proj=OProj(params, f"{name}.o_proj", ops),
        dense_norm=Norm(params, f"{name}.dense_norm", eps, ops),
        dense=None if routed else DenseMLP(params, f"{name}.dense", ops),
        experts=_experts(name, index, params, shards, rank, ops, tables) if routed else None,
        shared_experts=_shared(name, params, config, ops) if routed else None,
    )


def _experts(
    name: str, layer: int, params: Params, shards: Shards, rank: int, ops: Ops, tables: SlotTables | None
) -> Experts:
    slots, moe = shards.slots, shards.config.moe
    assert slots is not None and moe is not None
    here = slots.of_rank(rank % shards.layout.stage_size)
    return Experts(params, name, moe, slots.map(layer), here, ops, tables)


def _shared(name: str, params: Params, config: ModelConfig, ops: Ops) -> DenseMLP | None:
    assert config.moe is not None
    return DenseMLP(params, f"{name}.shared_experts", ops) if config.moe.shared_intermediate_size else None
