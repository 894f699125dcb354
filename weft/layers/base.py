"""Params: a rank's runtime parameters by name. Knows no checkpoint and no layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Params = Mapping[str, Tensor]
"""Runtime parameters of one rank: "layers.0.attention.qkv.weight" -> its slice."""
