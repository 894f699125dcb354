"""The C++ kernels as functions on tensors. Knows their argument lists, nothing of modules.

Threads are those of torch's OpenMP runtime, as many as `torch.get_num_threads()` says at the call.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.native import load
from weft.ops.base import AttentionMeta, KVCache

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
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

    def __init__(self, library: ctypes.CDLL, suffix: str) -> None:
        self._library = library
        self._call = getattr(library, f"weft_attention_{suffix}")
        self._call.argtypes, self._call.restype = _ATTENTION, None
        self._team = openmp_team()

    @classmethod
    def find(cls, dtype: torch.dtype) -> AttentionKernel | None:
        library = load("attention")
        return cls(library, _SUFFIXES[dtype]) if library and dtype in _SUFFIXES else None

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
