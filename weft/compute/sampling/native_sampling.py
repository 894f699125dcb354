"""Sampling in C++: the table of slots that it reads, and the call. Twin: `draw`, `counter_hash`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.compute.grammars.base import Mask
from weft.compute.native.step_library import Pool, open_library
from weft.compute.ops.base import FP32_MAX


class _Table(ctypes.Structure):
    """Mirrors `SamplingTable` of weft/compute/native/kernels/sampling/sampling.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("temperature", "top_p", "min_p", "top_k", "seed")]


class SlotTable:
    """How each of `slots` wants to be sampled, as flat arrays; a slot that was not set is greedy."""

    def __init__(self, slots: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.temperature: NDArray[np.float64] = np.zeros(slots)
        self.top_p: NDArray[np.float64] = np.ones(slots)
        self.min_p: NDArray[np.float64] = np.zeros(slots)
        self.top_k: NDArray[np.int64] = np.full(slots, vocab_size, np.int64)
        self.seed: NDArray[np.uint64] = np.zeros(slots, np.uint64)
        arrays = (self.temperature, self.top_p, self.min_p, self.top_k, self.seed)
        self._record = _Table(*(array.ctypes.data for array in arrays))
        self.address = ctypes.addressof(self._record)
        """Of what the kernel reads; valid while this object lives."""

    def set(self, slot: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
        """`temperature` 0 in fp32, which the kernel divides by: the largest logit. `top_k` below 1: all. Of `seed` the
        low 64 bits count."""
        self.temperature[slot] = np.float32(min(temperature, FP32_MAX))
        self.top_p[slot], self.min_p[slot] = top_p, min_p
        self.top_k[slot] = min(top_k, self.vocab_size) if top_k > 0 else self.vocab_size
        self.seed[slot] = seed & (2**64 - 1)


class SamplingKernel:
    """`pool`: threads that share the rows; None: the caller alone."""

    def __init__(self, library: ctypes.CDLL, pool: Pool | None = None) -> None:
        self._call, self._pool = library.weft_sample, pool

    @classmethod
    def find(cls, pool: Pool | None = None) -> SamplingKernel | None:
        """None where there is no library."""
        library = open_library() if pool is None else pool.lib
        return None if library is None else cls(library, pool)

    def __call__(
        self,
        logits: Tensor,
        table: SlotTable,
        slots: NDArray[np.int64],
        positions: NDArray[np.int64],
        values: Tensor,
        masks: Mapping[int, Mask | None] | None = None,
    ) -> None:
        """Writes id and whether the logits are finite into columns 0 and 1 of values [m, width], fp64, for logits
        [m, V], fp32; row i is of slots[i], whose request had generated positions[i] tokens. `masks`: by row, which ids
        it may choose."""
        if logits.dtype != torch.float32 or logits.stride(1) != 1:
            raise TypeError(f"logits of {logits.dtype} with strides {logits.stride()}; fp32 rows are taken")
        allowed = None
        if masks:
            allowed = np.zeros(len(slots), np.uint64)  # addresses
            for row, mask in masks.items():
                allowed[row] = 0 if mask is None else mask.ctypes.data
        self._call(
            None if self._pool is None else self._pool.handle,
            logits.data_ptr(),
            logits.stride(0),
            *logits.shape,
            table.address,
            slots.ctypes.data,
            positions.ctypes.data,
            values.data_ptr(),
            values.stride(0),
            None if allowed is None else allowed.ctypes.data,
        )
