"""Writes ggml_sums.json: digests of what ggml's own routines unpack, for each type of tensor in GGUF files.

python -m tests.model.weights.ggml_sums LIBGGML_BASE    # libggml-base.so, of a build with BUILD_SHARED_LIBS=ON
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from tests.support.checkpoints import random_blocks
from weft.model.checkpoint.formats import QUANTIZED

SUMS = Path(__file__).with_suffix(".json")
ROWS, COLUMNS = 16, 1024


def blocks_of(name: str) -> np.ndarray:
    """uint8 [rows, bytes of a row], the same ones every time."""
    return random_blocks(name, ROWS, COLUMNS, np.random.default_rng(82))


def main(library: str) -> None:
    """For a library's path."""
    ggml, sums = ctypes.CDLL(library), {}
    for name in (fmt.name for fmt in QUANTIZED):
        raw, out = blocks_of(name), np.empty((ROWS, COLUMNS), np.float32)
        stem = name[:-1].lower() + name[-1] if name.endswith("_K") else name.lower()
        routine = getattr(ggml, f"dequantize_row_{stem}")
        routine(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(out.size))
        assert np.isfinite(out).all(), name
        sums[name] = hashlib.sha256(out.tobytes()).hexdigest()
    SUMS.write_text(json.dumps(sums, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
