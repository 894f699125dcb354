"""The C++ kernels as functions on tensors. Knows their argument lists, nothing of modules.

Threads are those of torch's OpenMP runtime, as many as `torch.get_num_threads()` says at the call.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.native import load, missing_reason
from weft.ops.base import AttentionMeta, KVCache
from weft.ops.linear import Form

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
LIBRARIES = ("attention", "linear", "pointwise")

_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float64: "f64"}
_ATTENTION = [_POINTER, _LONG, _LONG, *[_POINTER] * 7, *[_INT] * 7, _DOUBLE, _INT, _POINTER]


def openmp_team() -> int | None:
    """Address of the OpenMP runtime's `GOMP_parallel` that torch brought into this process, if it did."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, _POINTER).value
    except AttributeError:
        return None


class AttentionKernel:
    """Paged attention in fp32, bf16 or fp64; None from `find` where there is no library or no kernel for the dtype."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._library = library
        self._call = getattr(library, f"weft_attention_{_SUFFIXES[dtype]}")
        self._call.argtypes, self._call.restype = _ATTENTION, None
        self._team = openmp_team()

    @classmethod
    def find(cls, dtype: torch.dtype) -> AttentionKernel | None:
        library = load("attention")
        return cls(library, dtype) if library and dtype in _SUFFIXES else None

    def __call__(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        """See `Ops.attention`; q in the cache's dtype."""
        rows, heads, dim = q.shape
        out = torch.empty(rows, heads * dim, dtype=q.dtype)
        if q.stride(2) != 1:
            q = q.contiguous()
        _, kv_heads, block_size, _ = cache.k.shape
        self._call(
            q.data_ptr(),
            q.stride(0),
            q.stride(1),
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            out.data_ptr(),
            kv_of_head.data_ptr(),
            meta.positions.data_ptr(),
            meta.run_of_row.data_ptr(),
            meta.block_tables.data_ptr(),
            meta.block_tables.shape[1],
            rows,
            heads,
            kv_heads,
            dim,
            block_size,
            window,
            scale,
            torch.get_num_threads(),
            self._team,
        )
        return out


class LinearKernel(Form):
    """x @ weight.T + bias in fp32, bf16 or fp64 with one order of summation per result."""

    name = "in C++"

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, function: str = "linear") -> None:
        self._library = library
        self._call = getattr(library, f"weft_{function}_{_SUFFIXES[dtype]}")
        self._given = torch.float32 if function == "logits" else dtype
        self._call.argtypes = [_POINTER, _LONG, _POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT, _POINTER]
        self._call.restype = None
        self._team = openmp_team()

    @classmethod
    def find(cls, dtype: torch.dtype) -> LinearKernel | None:
        library = load("linear")
        return cls(library, dtype) if library and dtype in _SUFFIXES else None

    @classmethod
    def find_logits(cls, dtype: torch.dtype) -> LinearKernel | None:
        """The same product, its results in the type they are added up in."""
        library = load("linear")
        return cls(library, dtype, "logits") if library and dtype == torch.bfloat16 else cls.find(dtype)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, depth = x.shape
        x = x if x.stride(1) == 1 else x.contiguous()
        weight = weight.contiguous()
        out = torch.empty(rows, weight.shape[0], dtype=self._given)
        self._call(
            x.data_ptr(),
            x.stride(0),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            rows,
            weight.shape[0],
            depth,
            torch.get_num_threads(),
            self._team,
        )
        return out


class PointwiseKernels:
    """RMS norm, rope with cache write, SiLU * up in fp32, bf16 or fp64; see `Ops` for what each computes."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        suffix = _SUFFIXES[dtype]
        self._library = library
        self._dtype = dtype
        self._angles = torch.promote_types(dtype, torch.float32)
        self._norm = getattr(library, f"weft_rms_norm_{suffix}")
        self._norm.argtypes = [_POINTER, _LONG, _POINTER, _POINTER, _INT, _INT, _DOUBLE, _INT, _POINTER]
        self._wide_norm = library.weft_rms_norm_wide_bf16 if dtype == torch.bfloat16 else self._norm
        self._wide_norm.argtypes, self._wide_norm.restype = self._norm.argtypes, None
        self._silu = getattr(library, f"weft_silu_mul_{suffix}")
        self._silu.argtypes = [_POINTER, _LONG, _POINTER, _INT, _INT, _INT, _POINTER]
        self._rope = getattr(library, f"weft_rope_and_cache_{suffix}")
        self._rope.argtypes = [*[_POINTER, _LONG, _LONG] * 3, *[_POINTER] * 6, *[_INT] * 6, _POINTER]
        for call in (self._norm, self._silu, self._rope):
            call.restype = None
        self._team = openmp_team()

    @classmethod
    def find(cls, dtype: torch.dtype) -> PointwiseKernels | None:
        library = load("pointwise")
        return cls(library, dtype) if library and dtype in _SUFFIXES else None

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        # Rows one fixed distance apart (x itself, or heads inside a packed buffer) are read in place.
        flat = x if x.dim() == 2 else x.reshape(-1, size)
        flat = flat if flat.stride(1) == 1 else flat.contiguous()
        out = torch.empty(x.shape, dtype=weight.dtype)
        rows, threads = flat.shape[0], torch.get_num_threads()
        norm = self._norm if x.dtype == weight.dtype else self._wide_norm
        norm(flat.data_ptr(), flat.stride(0), weight.data_ptr(), out.data_ptr(), rows, size, eps, threads, self._team)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        rows, both = gate_up.shape
        packed = gate_up if gate_up.stride(1) == 1 else gate_up.contiguous()
        out = torch.empty(rows, both // 2, dtype=gate_up.dtype)
        self._silu(
            packed.data_ptr(), packed.stride(0), out.data_ptr(), rows, both // 2, torch.get_num_threads(), self._team
        )
        return out

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        rows, heads, dim = q.shape
        q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
        angles = cos_sin.to(self._angles).contiguous()
        out = torch.empty(rows, heads, dim, dtype=q.dtype)
        places = [argument for x in (q, k, v) for argument in (x.data_ptr(), x.stride(0), x.stride(1))]
        self._rope(
            *places,
            out.data_ptr(),
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            angles.data_ptr(),
            meta.positions.data_ptr(),
            meta.slots.data_ptr(),
            rows,
            heads,
            k.shape[1],
            dim,
            cache.k.shape[2],
            torch.get_num_threads(),
            self._team,
        )
        return out


@dataclass(frozen=True, slots=True)
class Kernels:
    """All kernels of one dtype."""

    attend: AttentionKernel
    pointwise: PointwiseKernels
    linear: LinearKernel
    logits: LinearKernel

    @classmethod
    def find(cls, dtype: torch.dtype) -> Kernels | None:
        """None where a library is missing, or there are no kernels for the dtype."""
        attend, pointwise = AttentionKernel.find(dtype), PointwiseKernels.find(dtype)
        linear, logits = LinearKernel.find(dtype), LinearKernel.find_logits(dtype)
        return cls(attend, pointwise, linear, logits) if attend and pointwise and linear and logits else None


def why_missing(dtype: torch.dtype) -> str:
    """Why `Kernels.find(dtype)` gives None, for a person."""
    if dtype not in _SUFFIXES:
        return f"there are none for {str(dtype).removeprefix('torch.')}"
    return next(filter(None, map(missing_reason, LIBRARIES)), "")
