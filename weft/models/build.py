"""Builds a rank's Decoder from its parameters. Knows which layers a dense decoder has; no collective, no scheduler."""

from __future__ import annotations

from torch import Tensor

from weft.arch.config import ModelConfig
from weft.arch.params import Cut
from weft.arch.shards import Shards
from weft.comm.base import Comm
from weft.layers import Attention, DenseMLP, Embedding, LMHead, Norm, OProj, Params
from weft.layout.boundaries import Boundary, dense_boundaries
from weft.models.decoder import Decoder, DecoderLayer
from weft.ops.base import Ops


def boundaries_of(shards: Shards) -> dict[str, Boundary]:
    """The boundaries of the model's forward pass under the layout."""
    config = shards.config
    return dense_boundaries(
        shards.layout,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
    )


def build_decoder(shards: Shards, params: Params, comm: Comm, ops: Ops, cos_sin: Tensor) -> Decoder:
    """The decoder of rank `comm.rank`; `cos_sin` [max positions, head dim] is shared by all layers."""
    config, eps = shards.config, shards.config.rms_norm_eps
    vocab = shards.cuts[Cut.VOCAB_IN]
    lo = vocab[comm.rank % shards.layout.stage_size % len(vocab)][0]
    layers = [_layer(config, index, params, shards, comm.rank, ops, cos_sin) for index in range(config.num_layers)]
    return Decoder(
        Embedding(params, lo, ops),
        layers,
        Norm(params, "norm", eps, ops),
        LMHead(params, ops),
        boundaries_of(shards),
        comm,
    )


def _layer(
    config: ModelConfig, index: int, params: Params, shards: Shards, rank: int, ops: Ops, cos_sin: Tensor
) -> DecoderLayer:
    name, eps = f"layers.{index}", config.rms_norm_eps
    return DecoderLayer(
        attention_norm=Norm(params, f"{name}.attention_norm", eps, ops),
        attention=Attention(params, f"{name}.attention", config, index, shards.head_share(rank), ops, cos_sin),
        o_proj=OProj(params, f"{name}.o_proj", ops),
        dense_norm=Norm(params, f"{name}.dense_norm", eps, ops),
        dense=DenseMLP(params, f"{name}.dense", ops),
    )
