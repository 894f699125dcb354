"""Tables of cosines and sines for rotary embeddings, with the scaling rules of config.json.

Types: default, linear, dynamic, llama3, yarn, longrope. Frequencies and angles are computed in fp64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.base.errors import ConfigError
from weft.parallel.arch.config import RopeConfig


@dataclass(frozen=True, slots=True)
class _Shape:
    theta: float
    dim: int
    trained: int
    served: int


Frequencies = tuple[Tensor, float]
"""Inverse frequencies [D / 2] in fp64, and the factor on cosines and sines (yarn's attention factor)."""


def _number(scaling: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = scaling.get(key)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"rope_scaling.{key} is missing", field=f"rope_scaling.{key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(
            f"rope_scaling.{key} {value!r}: legal: a number above 0", field=f"rope_scaling.{key}", value=value
        )
    return float(value)


def _inverse(theta: float, dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def _default(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    return _inverse(shape.theta, shape.dim), 1.0


def _linear(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    return _inverse(shape.theta, shape.dim) / _number(scaling, "factor"), 1.0


def _dynamic(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    """NTK-aware base for the longest length that is served, for every row: were it for each request's own length,
    cached keys would turn wrong as a request grows. Lengths up to the trained one are not scaled."""
    factor, longest = _number(scaling, "factor"), max(shape.trained, shape.served)
    stretch = factor * longest / shape.trained - (factor - 1)
    return _inverse(shape.theta * stretch ** (shape.dim / (shape.dim - 2)), shape.dim), 1.0


def _llama3(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    factor, trained = _number(scaling, "factor"), _number(scaling, "original_max_position_embeddings")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    inverse = _inverse(shape.theta, shape.dim)
    wavelength = 2 * math.pi / inverse
    smooth = (trained / wavelength - low) / (high - low)
    blended = (1 - smooth) * inverse / factor + smooth * inverse
    scaled = torch.where(wavelength > trained / low, inverse / factor, inverse)
    medium = (wavelength >= trained / high) & (wavelength <= trained / low)
    return torch.where(medium, blended, scaled), 1.0


def _yarn(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    trained = _number(scaling, "original_max_position_embeddings", shape.trained)
    factor = _number(scaling, "factor", shape.trained / trained)
    fast, slow = _number(scaling, "beta_fast", 32), _number(scaling, "beta_slow", 1)

    def turning_dim(rotations: float) -> float:
        return shape.dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(shape.theta))

    low, high = turning_dim(fast), turning_dim(slow)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, shape.dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(shape.dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    inverse = _inverse(shape.theta, shape.dim)
    return inverse / factor * ramp + inverse * (1 - ramp), _yarn_attention(scaling, factor)


def _yarn_attention(scaling: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return _number(scaling, "attention_factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(_number(scaling, "mscale")) / mscale(_number(scaling, "mscale_all_dim"))
    return mscale(1.0)


def _longrope(shape: _Shape, scaling: Mapping[str, Any]) -> Frequencies:
    """The long factors for every row, or the short ones, by the longest length that is served: were they chosen by
    each request's own length, cached keys would turn wrong as a request grows."""
    trained = _number(scaling, "original_max_position_embeddings", shape.trained)
    factor = _number(scaling, "factor", shape.trained / trained)
    attention = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    name = "long_factor" if shape.served > trained else "short_factor"
    factors = scaling.get(name)
    if factors is None or len(factors) != shape.dim // 2:
        raise ConfigError(
            f"rope_scaling.{name}: legal: a number for each of {shape.dim // 2} pairs", field=f"rope_scaling.{name}"
        )
    inverse = _inverse(shape.theta, shape.dim) / torch.tensor(factors, dtype=torch.float64)
    return inverse, _number(scaling, "attention_factor", attention)


_TYPES: dict[str, Callable[[_Shape, Mapping[str, Any]], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def frequencies(rope: RopeConfig, head_dim: int, trained: int, served: int) -> Frequencies:
    """`trained`: the config's max_position_embeddings; `served`: the most positions that are served. ConfigError names
    an unknown type or a bad number."""
    scaling = rope.scaling or {}
    name = scaling.get("rope_type", scaling.get("type", "default"))
    if name not in _TYPES:
        legal = ", ".join(_TYPES)
        raise ConfigError(
            f"rope type {name!r}: legal: {legal}", field="rope_scaling.rope_type", value=name, legal=tuple(_TYPES)
        )
    if head_dim % 2:
        raise ConfigError(f"head_dim {head_dim}: rotary embeddings need an even one", field="head_dim", value=head_dim)
    return _TYPES[name](_Shape(rope.theta, head_dim, trained, served), scaling)


def build_cos_sin(
    rope: RopeConfig,
    head_dim: int,
    max_positions: int,
    *,
    trained_positions: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[max_positions, head_dim]: cosines then sines, for positions 0 .. max_positions - 1 (the most that is served).

    `trained_positions` is the config's max_position_embeddings (default: max_positions). `dtype`: fp32, or fp64 for
    fp64 and exact models.
    """
    inverse, factor = frequencies(rope, head_dim, trained_positions or max_positions, max_positions)
    angles = torch.arange(max_positions, dtype=torch.float64)[:, None] * inverse
    return (torch.cat((angles.cos(), angles.sin()), -1) * factor).to(dtype=dtype, device=device)


def build_q_scale(
    growth: tuple[float, int], max_positions: int, *, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """[max_positions]: 1 + b * log(1 + floor(position / P)), for `growth` (b, P)."""
    weight, period = growth
    steps = torch.arange(max_positions, dtype=torch.float64).div(period, rounding_mode="floor")
    return (1 + weight * steps.log1p()).to(dtype=dtype, device=device)
