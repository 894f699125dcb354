"""Weights of 8 and 4 bits beside those of bf16: the same bursts of requests, in turns.

    python benchmarks/coded_weights.py [--model DIR] [--rounds 12] [--save FILE.json]

Five engines of one rank: bf16; 8 and 4 bits, whose panels are unpacked to be multiplied with rows as they are; and the
same with rows rounded to 8 bits (`--activations int8`, here `x 8`), which multiplies codes. See `benchmarks/bursts.py`
for what is compared.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bursts import CASES, compare
from benchmarks.command import run_command, whole
from benchmarks.offline_engine import options, tell
from weft.llm import LLM
from weft.settings import EngineConfig

KINDS = {
    "bf16": ("none", "full"),
    "int8": ("int8", "full"),
    "int4": ("int4", "full"),
    "int8 x 8": ("int8", "int8"),
    "int4 x 8": ("int4", "int8"),
}
"""`--quantization` and `--activations`."""


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--rounds", type=whole, default=12)
    arguments = parser.parse_args()
    config = EngineConfig(max_model_len=2048, kv_cache_memory=256 << 20, enable_prefix_caching=False, dtype="bfloat16")
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(
                LLM(arguments.model, config=replace(config, quantization=quantization, activations=activations))
            )
            for name, (quantization, activations) in KINDS.items()
        }
        tell(arguments, {name: compare(engines, burst, arguments.rounds) for name, burst in CASES.items()})


if __name__ == "__main__":
    run_command(main)
