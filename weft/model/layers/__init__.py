"""Layers: the only holders of weights. They read as if there were one device."""

from weft.model.layers.attention import Attention
from weft.model.layers.base import Params, Prepare
from weft.model.layers.dense import DenseMLP, Embedding, LMHead, Norm, OProj
from weft.model.layers.experts import Experts
from weft.model.layers.latent_attention import LatentAttention

__all__ = [
    "Attention",
    "DenseMLP",
    "Embedding",
    "Experts",
    "LMHead",
    "LatentAttention",
    "Norm",
    "OProj",
    "Params",
    "Prepare",
]
