"""Decode steps and prompts on a CUDA device: graphs beside single operations, and both beside the memory's bound.

    python benchmarks/device_decode.py [--form smollm2|llama-1b|qwen3-1b|llama-8b ...] [--streams 1 8 32 128]
                                       [--prompt 128] [--steps 128] [--rounds 3] [--transformers]
                                       [--no-single-operations] [--save FILE.json]

The forms have random weights, written once for a run. Every case is a rank in a process of its own, as `weft serve`
runs it; a step is what a caller of the engine sees between two tokens of all streams, HTTP is not part of it. The bound
of a step is its bytes, the weights once and the keys and values of every stream's context, over what a large copy on
the device moves (bytes read and written), measured before. Per case: median of the rounds' mean steps, tokens a second,
bound over step; a prompt of 1,024 tokens alone, median seconds to its first token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.common.command import run_command, whole
from benchmarks.common.forms import FORMS, write_form
from benchmarks.common.offline_engine import Watched, options, tell, watched
from weft.base.settings import EngineConfig
from weft.parallel.arch import parse_config

LONG_PROMPT = 1024
TRANSFORMERS_STEPS = 32
FIRST_SEED = 1000
"""Of the first prompt alone: others have those below."""
COPY_BYTES = 4 << 30


def copy_bytes_per_s() -> float:
    """The best of ten copies on the device, bytes read and written."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target, times = torch.empty_like(source), []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    del source, target
    torch.cuda.empty_cache()
    return 2 * COPY_BYTES / min(times)


def burst(engine: Watched, name: str, streams: int, prompt: int, steps: int) -> float:
    """Mean seconds of a step in which all streams decode."""
    names = [f"{name}-{stream}" for stream in range(streams)]
    for seed, each in enumerate(names):
        engine.add(each, engine.prompt(seed, prompt), steps + 2)
    engine.finish()
    came = [engine.came.pop(each) for each in names]
    begin, end = max(times[1] for times in came), min(times[-1] for times in came)
    rows = statistics.mean(sum(begin <= moment <= end for moment in times) - 1 for times in came)
    return (end - begin) / rows


def first_token(engine: Watched, number: int) -> float:
    """Seconds of the prompt `number` alone, of which nothing is cached."""
    begin, name = time.perf_counter(), f"first {number}"
    engine.add(name, engine.prompt(FIRST_SEED + number, LONG_PROMPT), 1)
    engine.finish()
    return engine.came.pop(name)[0] - begin


def transformers_steps(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same steps by `generate` of transformers with default settings: streams of one length, in one batch."""
    import transformers

    engine = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).cuda()
    found: dict[str, Any] = {"version": transformers.__version__}
    for streams in arguments.streams:
        ids = torch.randint(1, 40000, (streams, arguments.prompt), device="cuda")
        times = []
        for tokens in (2, 1, 1 + TRANSFORMERS_STEPS):
            begin = time.perf_counter()
            engine.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        step = (times[2] - times[1]) / TRANSFORMERS_STEPS
        found[f"{streams} streams"] = {"step_ms": round(1e3 * step, 3), "tokens_per_s": round(streams / step, 1)}
    del engine
    torch.cuda.empty_cache()
    return found


def measure(
    form: str, eager: bool, arguments: argparse.Namespace, model: Path, weights: int, rate: float
) -> dict[str, Any]:
    """Every number of streams, with graphs or without."""
    config, most = parse_config({"architectures": ["LlamaForCausalLM"], **FORMS[form]}), max(arguments.streams)
    position = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
    length = max(arguments.prompt + arguments.steps, LONG_PROMPT) + 16
    settings = EngineConfig(
        device="cuda", dtype="bfloat16", max_model_len=length, max_num_seqs=most, enforce_eager=eager,
        max_num_batched_tokens=8192, enable_prefix_caching=False, prefill_stretch=0.0,
        kv_cache_memory=(most * (-(-length // 16) + 1) + 2) * 16 * position,
    )  # fmt: skip
    found: dict[str, Any] = {}
    rounds, steps = (1, min(arguments.steps, 16)) if eager else (arguments.rounds, arguments.steps)
    with watched(str(model), 1, settings) as engine:
        firsts = [first_token(engine, number) for number in range(rounds + 1)][1:]
        found["first_token_s"] = round(statistics.median(firsts), 5)
        for streams in arguments.streams:
            burst(engine, f"warm-up {streams}", streams, arguments.prompt, 4)
            took = [burst(engine, f"{n} {streams}", streams, arguments.prompt, steps) for n in range(rounds)]
            step = statistics.median(took)
            bound = (weights + streams * position * (arguments.prompt + steps // 2)) / rate
            found[f"{streams} streams"] = {
                "step_ms": round(1e3 * step, 3), "tokens_per_s": round(streams / step, 1),
                "bound_ms": round(1e3 * bound, 3), "share_of_bound": round(bound / step, 3),
            }  # fmt: skip
    return found


def main() -> None:
    parser = options(__doc__, ranks=False)
    parser.add_argument("--form", nargs="+", choices=FORMS, default=["smollm2", "llama-1b"])
    parser.add_argument("--streams", nargs="+", type=whole, default=[1, 8, 32, 128])
    parser.add_argument("--prompt", type=whole, default=128)
    parser.add_argument("--steps", type=whole, default=128)
    parser.add_argument("--rounds", type=whole, default=3)
    on_or_off = argparse.BooleanOptionalAction
    parser.add_argument("--single-operations", action=on_or_off, default=True, help="measure these, too")
    parser.add_argument("--transformers", action="store_true", help="measure that, too, where it is installed")
    arguments = parser.parse_args()
    rate = copy_bytes_per_s()
    card = torch.cuda.get_device_properties(0)
    cases: dict[str, Any] = {"device": {"name": card.name, "copy_gb_per_s": round(rate / 1e9, 1)}}
    with tempfile.TemporaryDirectory() as scratch:
        for form in arguments.form:
            model = Path(scratch) / form
            weights = write_form(model, form, "cuda")
            for eager in (False, True) if arguments.single_operations else (False,):
                name = f"{form}, {'single operations' if eager else 'graphs'}"
                cases[name] = {"weights_mb": round(weights / 1e6, 1)} | measure(
                    form, eager, arguments, model, weights, rate
                )
                print(name, cases[name], flush=True)
            if arguments.transformers:
                cases[f"{form}, transformers"] = transformers_steps(model, arguments)
                print(cases[f"{form}, transformers"], flush=True)
    tell(arguments, cases)


if __name__ == "__main__":
    run_command(main)
