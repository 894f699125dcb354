"""Rotary scaling of a GGUF file as the dictionary of HF's config. Reads the one small tensor that Llama 3 files carry.

Llama 3's scaling is four numbers in config.json, but in GGUF only its result is kept: a factor for each frequency. The
numbers are found again by computing the factors from them; a tensor that no such numbers give is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft.model.checkpoint.checkpoint import Json
from weft.model.checkpoint.tensors import TensorInfo

ROPE_FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS = (ROPE_FREQS, LONG, SHORT)
"""Small tensors outside the layers that belong to the config."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
MOST_BYTES = 1 << 16
Result = tuple[Json, list[str]]


def rope_scaling(prefix: str, keys: Json, tensors: Mapping[str, TensorInfo], config: Json) -> Result:
    """rope_theta and, where the file has one, rope_scaling; and what stands against it."""
    theta = float32_decimal(keys.get("rope.freq_base", 10000.0))
    kind = keys.get("rope.scaling.type", "none")
    if theta <= 1:  # which the config's reader refuses
        return {"rope_theta": theta}, []
    freqs, long, short = (tensors.get(name) for name in (ROPE_FREQS, LONG, SHORT))
    if long is not None and short is not None:
        scaling, problems = _longrope(keys, long, short)
    elif freqs is not None:
        scaling, problems = _llama3(freqs, theta, config["head_dim"])
        if kind != "none":
            problems.append(f"metadata key {prefix}rope.scaling.type: {kind!r} together with {ROPE_FREQS}")
    else:
        scaling, problems = _keyed(prefix, keys, kind)
    return {"rope_theta": theta, **({"rope_scaling": scaling} if scaling else {})}, problems


def float32_decimal(value: float) -> float:
    """The shortest decimal that a GGUF float stands for: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _keyed(prefix: str, keys: Json, kind: str) -> Result:
    if (factor := keys.get("rope.scaling.attn_factor", 1.0)) != 1.0:
        return {}, [f"metadata key {prefix}rope.scaling.attn_factor: {factor} is not supported with {kind}; legal: 1.0"]
    if kind == "none":
        return {}, []
    if kind not in ("linear", "yarn"):
        return {}, [f"metadata key {prefix}rope.scaling.type: {kind!r} is not supported; supported: none, linear, yarn"]
    if "rope.scaling.factor" not in keys:
        return {}, [f"metadata key {prefix}rope.scaling.factor: missing"]
    scaling: Json = {"rope_type": kind, "factor": float32_decimal(keys["rope.scaling.factor"])}
    if (length := keys.get("rope.scaling.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = length
    for word in ("beta_fast", "beta_slow"):
        if (value := keys.get(f"rope.scaling.yarn_{word}")) is not None:
            scaling[word] = float32_decimal(value)
    return scaling, []


def _longrope(keys: Json, long: TensorInfo, short: TensorInfo) -> Result:
    found: Json = {"rope_type": "longrope"}
    problems: list[str] = []
    for word, tensor in (("long_factor", long), ("short_factor", short)):
        if tensor.dtype != "F32" or len(tensor.shape) != 1 or tensor.nbytes > MOST_BYTES:
            problems.append(f"{tensor.source}: wanted F32 [pairs of a head], got {tensor.dtype} {list(tensor.shape)}")
        else:
            found[word] = [float32_decimal(value) for value in _numbers(tensor)]
    if (length := keys.get("rope.scaling.original_context_length")) is not None:
        found["original_max_position_embeddings"] = length
    if (factor := keys.get("rope.scaling.attn_factor")) is not None:
        found["attention_factor"] = float32_decimal(factor)
    return found, problems


def _numbers(tensor: TensorInfo) -> np.ndarray[Any, np.dtype[np.float32]]:
    with Path(tensor.file).open("rb") as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.read(tensor.nbytes), np.float32)


def _llama3(tensor: TensorInfo, theta: float, head_dim: int) -> Result:
    if tensor.dtype != "F32" or tensor.shape != (head_dim // 2,):
        return {}, [f"{ROPE_FREQS}: wanted F32 [{head_dim // 2}], got {tensor.dtype} {list(tensor.shape)}"]
    factors = _numbers(tensor)
    if np.allclose(factors, 1.0):
        return {}, []
    factor = round(_factor(float(factors[-1]), theta, head_dim), 4)
    found = {"rope_type": "llama3", "factor": factor, **LLAMA3}
    if not 0 < factor < math.inf or not np.allclose(factors, llama3_factors(found, theta, head_dim), rtol=1e-4):
        return {}, [f"{ROPE_FREQS}: not the factors of a llama3 scaling with {LLAMA3}; other ones are not supported"]
    return found, []


def _factor(last: float, theta: float, head_dim: int) -> float:
    """The scaling's factor, from the longest wavelength's: that itself, or a mean of it and 1."""
    share = _smooth(LLAMA3, theta, head_dim, head_dim // 2 - 1)
    rest = 1 / last - share if last > 0 else 0.0
    return (1 - share) / rest if rest > 0 and share < 1 else last


def _smooth(scaling: Json, theta: float, head_dim: int, i: int) -> float:
    """How much frequency `i` is left alone: from 0, divided by the whole factor, to 1."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    length = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * math.pi * math.pow(theta, 2 * i / head_dim)
    return min(max((length / wavelength - low) / (high - low), 0.0), 1.0)


def llama3_factors(scaling: Json, theta: float, head_dim: int) -> list[float]:
    """What each of head_dim/2 frequencies is divided by under `scaling` (HF's llama3 words)."""
    shares = [_smooth(scaling, theta, head_dim, i) for i in range(head_dim // 2)]
    return [1 / ((1 - share) / scaling["factor"] + share) for share in shares]
