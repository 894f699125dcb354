"""Layers: the only holders of weights. They read as if there were one device."""

from weft.layers.attention import Attention
from weft.layers.base import Params
from weft.layers.dense import DenseMLP, Embedding, LMHead, Norm, OProj

__all__ = ["Attention", "DenseMLP", "Embedding", "LMHead", "Norm", "OProj", "Params"]
