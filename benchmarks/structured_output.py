"""What grammars cost: beside other streams, alone at several concurrencies, and until the first token of a new schema.

    python benchmarks/structured_output.py [--model DIR] [--tp N] [--steps 40] [--rounds 5] [--save FILE.json]

Milliseconds of steps of nine streams, in turns: eight greedy ones beside a ninth that is greedy, draws at temperature
1, or draws under a schema. Then tokens per second of 1, 8 and 32 streams with and without a schema, and milliseconds to
the first token of a short prompt with a schema that is new. Offline: no HTTP.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.command import run_command, whole
from benchmarks.common.offline_engine import Watched, options, tell, watched
from benchmarks.common.timing import quantile
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.grammars.constraints import HEADER, json_rule

STREAMS, PROMPT = (1, 8, 32), 32
KINDS = ("greedy", "temperature 1", "schema")


def schema(mark: str = "person") -> dict[str, Any]:
    """A list of objects that does not end before an answer does."""
    one = {
        "type": "object",
        "properties": {
            mark: {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        },
        "required": [mark, "age", "tags"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": one, "minItems": 10_000}


def params(kind: str, tokens: int, mark: str = "person") -> SamplingParams:
    """Of a stream of `tokens` tokens."""
    if kind == "greedy":
        return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    if kind == "temperature 1":
        return SamplingParams(max_tokens=tokens, temperature=1.0, seed=3, ignore_eos=True)
    return SamplingParams(
        max_tokens=tokens, temperature=1.0, seed=3, grammar=HEADER + "start: " + json_rule(schema(mark))
    )


def step_times(engine: Watched, kinds: list[str], steps: int) -> list[float]:
    """Milliseconds of steps in which all streams decode."""
    for number, kind in enumerate(kinds):
        engine.engine.add_request(f"{time.perf_counter_ns()}", engine.prompt(number, PROMPT), params(kind, steps + 12))
    for _ in range(6):  # prompts, and the first steps after them
        engine.step()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        engine.step()
        times.append(1e3 * (time.perf_counter() - began))
    engine.finish()
    return times


def beside(engine: Watched, steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Of eight greedy streams and a ninth."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for index in range(rounds):
        for place in range(len(KINDS)):
            kind = KINDS[(index + place) % len(KINDS)]
            times[kind] += step_times(engine, ["greedy"] * 8 + [kind], steps)
    drawn = statistics.median(times["temperature 1"])
    return {
        f"eight beside a ninth: {kind}": {
            "step_p50_ms": round(statistics.median(found), 3),
            "step_p90_ms": round(quantile(found, 0.9), 3),
            "beside_temperature_1": round(statistics.median(found) / drawn, 4),
        }
        for kind, found in times.items()
    }


def alone(engine: Watched, streams: int, steps: int, rounds: int) -> dict[str, float]:
    """Tokens per second of all streams."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            times[kind] += step_times(engine, [kind] * streams, steps)
    return {f"{kind}, tokens/s": round(1e3 * streams / statistics.median(found), 1) for kind, found in times.items()}


def first_tokens(engine: Watched, count: int = 12) -> dict[str, float]:
    """Milliseconds to the first token."""
    times: dict[str, list[float]] = {"temperature 1": [], "schema": []}
    for number in range(count):
        for kind, found in times.items():
            name = f"first {kind} {number}"
            began = time.perf_counter()
            asked = params(kind, 1, f"field {number}")
            engine.engine.add_request(name, engine.prompt(50 + number, PROMPT), asked)
            engine.finish()
            found.append(1e3 * (engine.came[name][0] - began))
    return {f"{kind}, p50 ms": round(statistics.median(found), 2) for kind, found in times.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=whole, default=40)
    parser.add_argument("--rounds", type=whole, default=5)
    arguments = parser.parse_args()
    settings = EngineConfig(dtype="bfloat16", max_num_seqs=max(STREAMS), max_model_len=2048)
    cases: dict[str, object] = {"schema": json.dumps(schema())}
    with watched(arguments.model, arguments.tp, settings) as engine:
        step_times(engine, [*KINDS], 4)
        cases |= beside(engine, arguments.steps, arguments.rounds)
        for streams in STREAMS:
            cases[f"{streams} streams"] = alone(engine, streams, arguments.steps, max(1, arguments.rounds // 2))
        cases["first token"] = first_tokens(engine)
    tell(arguments, cases)


if __name__ == "__main__":
    run_command(main)
