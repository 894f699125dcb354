"""The names of all dialects. Apart from what reads them, so that a command can list them without."""

from __future__ import annotations

NAMES = ("sglang", "trtllm", "vllm", "mindie", "tokenspeed")
