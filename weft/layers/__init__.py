"""Layers: the only holders of weights. They read as if there were one device."""

from weft.layers.attention import Attention
from weft.layers.base import Params, Prepare
from weft.layers.dense import DenseMLP, Embedding, LMHead, Norm, OProj
from weft.layers.experts import Experts
from weft.layers.latent_attention import LatentAttention

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
