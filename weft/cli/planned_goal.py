"""The goal of a plan from a command's words: streams and lengths, or a context and how many requests of it."""

from __future__ import annotations

import argparse
import re

from weft.base.errors import ConfigError, UsageError
from weft.base.options import check_range
from weft.base.settings import DTYPE_BYTES, EngineConfig
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import resolve_for
from weft.parallel.arch.quantization import WeightStorage
from weft.runtime.launch_plan.block_size import block_size_of
from weft.runtime.launch_plan.step_limits import with_step_tokens
from weft.tools.explain.proposals import StepLoad
from weft.tools.plan.goal import Goal

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|us)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def goal_from(args: argparse.Namespace, config: ModelConfig, engine: EngineConfig, storage: WeightStorage) -> Goal:
    """Checked against the model. ConfigError: a number that cannot be."""
    streams, prompt, answer = args.streams, args.prompt, args.answer
    if (args.context is None) != (args.requests is None):
        raise UsageError("--context and --requests belong together: give both, or --streams, --in and --out")
    if args.context is not None:
        if streams is not None or prompt is not None:
            raise UsageError("--context and --requests stand for --streams and --in: leave those out")
        check_range("--requests", args.requests, 1, 1 << 30)
        answer = 64 if answer is None else answer
        check_range("--context", args.context, answer + 1, config.longest_position)
        streams, prompt = args.requests, args.context - answer
    named = with_step_tokens(engine, resolve_for(config, {}))
    load = StepLoad(named.tokens_per_step, engine.max_num_seqs, DTYPE_BYTES[engine.dtype], storage)
    streams, prompt, answer = (
        default if value is None else value for value, default in ((streams, 8), (prompt, 128), (answer, 64))
    )
    found = Goal(streams, prompt, answer, load, block_size_of(engine, engine.dtype, config), _seconds(args.tpot))
    found.check(config)
    return found


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"tpot {text}: a time above 0 is wanted, as 50ms or 0.05s", field="tpot", value=text)
    return float(match[1]) * _UNITS[match[2]]
