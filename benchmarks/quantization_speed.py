"""Weights of 8 and 4 bits, and of bf16 in 12 bits, beside those of bf16: the same bursts of requests, in turns.

    python benchmarks/quantization_speed.py [--model DIR] [--rounds 12] [--kinds KIND ...] [--save FILE.json]

Six engines of one rank: bf16; the same numbers in 12 bits each (`--compress-weights`); 8 and 4 bits, whose panels are
unpacked to be multiplied with rows as they are; and the same with rows rounded to 8 bits (`--activations int8`, here
`x 8`), which multiplies codes. `--kinds gguf "gguf x 8"` is for a MODEL that is a GGUF file: its own blocks beside
its numbers in bf16. See `benchmarks/common/bursts.py` for what is compared.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.bursts import CASES, tell_compared
from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import options
from benchmarks.peers.probe import Probe
from weft.base.settings import EngineConfig
from weft.frontend.llm import LLM
from weft.model.checkpoint.hub.embedded import cache_dir

KINDS: dict[str, dict[str, Any]] = {
    "bf16": {"compress_weights": False},
    "bf16 in 12": {"compress_weights": True},
    "int8": {"quantization": "int8", "activations": "full"},
    "int4": {"quantization": "int4", "activations": "full"},
    "int8 x 8": {"quantization": "int8", "activations": "int8"},
    "int4 x 8": {"quantization": "int4", "activations": "int8"},
    "gguf": {"quantization": "gguf", "activations": "full"},
    "gguf x 8": {"quantization": "gguf", "activations": "int8"},
}
"""Settings of each; the first is what others are compared with."""
OF_ANY_MODEL = tuple(name for name in KINDS if not name.startswith("gguf"))


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--rounds", type=whole, default=12)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS)[1:], default=OF_ANY_MODEL[1:], help="beside bf16")
    arguments = parser.parse_args()
    config = EngineConfig(max_model_len=2048, kv_cache_memory=256 << 20, enable_prefix_caching=False, dtype="bfloat16")
    with Probe(cache_dir() / "peers") as probe, ExitStack() as stack:
        engines = {
            name: stack.enter_context(LLM(arguments.model, config=replace(config, **KINDS[name])))
            for name in ("bf16", *arguments.kinds)
        }
        tell_compared(arguments, probe, engines, CASES)


if __name__ == "__main__":
    run_command(main)
