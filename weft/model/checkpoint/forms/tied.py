"""Whether two tensors hold the same numbers, read in pieces."""

from __future__ import annotations

import os

from weft.model.checkpoint.files import pread
from weft.model.checkpoint.tensors import TensorInfo

PIECE = 4 << 20
"""Bytes of each that are compared at a time."""


def same_content(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether shape, dtype and every byte are equal; a file that cannot be read is no copy of anything."""
    if (one.shape, one.dtype, one.nbytes) != (other.shape, other.dtype, other.nbytes):
        return False
    try:
        first = os.open(one.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            second = os.open(other.file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return all(
                    pread(first, min(PIECE, one.nbytes - at), one.offset + at)
                    == pread(second, min(PIECE, one.nbytes - at), other.offset + at)
                    for at in range(0, one.nbytes, PIECE)
                )
            finally:
                os.close(second)
        finally:
            os.close(first)
    except OSError:
        return False
