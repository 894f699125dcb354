"""dtype names as torch's dtypes. Knows nothing else; imports torch, so only ranks use it."""

from __future__ import annotations

import torch

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def torch_dtype(name: str) -> torch.dtype:
    """KeyError for a name that settings do not allow."""
    return _DTYPES[name]
