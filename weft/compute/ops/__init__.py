"""Operations that layers call (`base.Ops`), and `make_ops`, which chooses an implementation."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from weft.base.errors import ConfigError
from weft.compute.native.step_library import SPIN_SHARED_NS, Pool, open_library, why_missing
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.attention_registry import BACKENDS, Backends, choose_attention
from weft.compute.ops.base import Numerics
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.packed import DTYPES as PACKABLE
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.exact_ops import ExactOps
from weft.compute.ops.reference.linear import Invariance
from weft.compute.ops.reference.torch_ops import TorchOps

__all__ = ["AttentionMeta", "Invariance", "KVCache", "Numerics", "Ops", "make_ops"]


def make_ops(
    numerics: Numerics,
    device: torch.device | str,
    *,
    spin_ns: int = SPIN_SHARED_NS,
    attention: str = "auto",
    attention_backends: Backends = BACKENDS,
    partial: bool = False,
) -> Ops:
    """The fastest implementation that this machine has for `numerics` on `device`, with as many threads as torch has.

    `spin_ns`: how long its threads spin before they sleep; `attention`: the backend's name, `auto` for the one that the
    implementation brings. `partial`: whether partial outputs are needed, where ranks share the KV cache of a request.
    """
    ops = _fastest(numerics, torch.device(device), spin_ns)
    ops.attention_backend = choose_attention(attention, ops, attention_backends, partial=partial)
    return ops


def _fastest(numerics: Numerics, device: torch.device, spin_ns: int) -> Ops:
    if numerics.exact:
        return ExactOps(numerics, device)
    if device.type != "cpu":
        return _device_ops(numerics, device)
    library = open_library()
    if library is None and numerics.int8_activations and numerics.quantization == "gguf":
        raise ConfigError(
            f"activations int8: for a file's own blocks it needs the compiled C++ parts ({why_missing()}); give"
            " --activations full",
            field="activations",
            value="int8",
            legal=("full",),
        )
    if library is None and numerics.compress_weights:
        raise ConfigError(
            f"compress_weights: it needs the compiled C++ parts ({why_missing()}); leave --compress-weights out",
            field="compress_weights",
            value=True,
        )
    if library is None or numerics.dtype not in PACKABLE:
        name = str(numerics.dtype).removeprefix("torch.")
        reason = why_missing() if library is None else f"there are none for {name}"
        return TorchOps(numerics, device, f"no C++ kernels: {reason}; attention copies its keys, which is slow")
    return StepOps(numerics, device, Pool(library, torch.get_num_threads(), spin_ns=spin_ns))


def _device_ops(numerics: Numerics, device: torch.device) -> Ops:
    if why := _why_no_kernels(numerics.dtype, device):
        return TorchOps(numerics, device, f"{why}: attention copies its keys, which is slow")
    from weft.compute.ops.cuda.triton_ops import TritonOps

    return TritonOps(numerics, device)


def _why_no_kernels(dtype: torch.dtype, device: torch.device) -> str:
    """Why Triton's do not serve `dtype`; empty where they do."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from weft.compute.ops.cuda import triton_ops
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if dtype not in triton_ops.DTYPES:
        return f"Triton's kernels take no {str(dtype).removeprefix('torch.')}"
    return triton_ops.why_broken(device)
