"""Conversations that share a system prompt and grow turn by turn, with the prefix cache and without.

    python benchmarks/shared_prefix.py [--model DIR] [--tp N] [--chats 8] [--turns 4] [--save FILE.json]

All chats begin with the same 512 tokens; each turn brings 64 of a user's and 64 answered tokens, and the next turn's
prompt is all that was said. Time to first token and output tokens per second over all turns. Offline: no HTTP.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import Watched, options, tell, watched
from benchmarks.common.timing import quantile
from weft.base.settings import EngineConfig

SYSTEM, SAID = 512, 64


def measure(engine: Watched, chats: int, turns: int) -> dict[str, float]:
    """Milliseconds and tokens per second."""
    said = [engine.prompt(1000, SYSTEM) for _ in range(chats)]
    firsts, cached, asked, began = [], 0, 0, time.perf_counter()
    for turn in range(turns):
        sent = time.perf_counter()
        for chat in range(chats):
            said[chat] += engine.prompt(2000 + turn * chats + chat, SAID)
            engine.add(f"{turn}.{chat}", said[chat], SAID)
        engine.finish()
        for chat in range(chats):
            firsts.append(1e3 * (engine.came[f"{turn}.{chat}"][0] - sent))
            cached += engine.cached[f"{turn}.{chat}"]
            asked += len(said[chat])
            said[chat] += engine.answered[f"{turn}.{chat}"]
    seconds = time.perf_counter() - began
    return {
        "ttft_p50_ms": round(quantile(firsts, 0.5), 1),
        "ttft_p99_ms": round(quantile(firsts, 0.99), 1),
        "output_tokens_per_s": round(chats * turns * SAID / seconds, 1),
        "cached_share_of_prompts": round(cached / asked, 3),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--chats", type=whole, default=8)
    parser.add_argument("--turns", type=whole, default=4)
    arguments = parser.parse_args()
    cases = {}
    for caching in (True, False):
        settings = EngineConfig(
            dtype="bfloat16", max_num_seqs=arguments.chats, max_model_len=4096, enable_prefix_caching=caching
        )
        with watched(arguments.model, arguments.tp, settings) as engine:
            engine.add("warm", engine.prompt(9999, 64), 4)
            engine.finish()
            cases["prefix cache" if caching else "no prefix cache"] = measure(engine, arguments.chats, arguments.turns)
    tell(arguments, cases)


if __name__ == "__main__":
    run_command(main)
