"""`weft explain`: a model under a layout, as text or JSON. Reads headers and configs only; needs no torch."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from weft.base.errors import ConfigError, UsageError
from weft.base.options import check_range, parse_bytes, shown
from weft.base.settings import DTYPE_BYTES, EngineConfig, resolve_dtype
from weft.cli.args.dialects import add_dialect_arguments, take_foreign
from weft.cli.args.model import add_engine_arguments, add_layout_arguments, engine_config_from, layout_from
from weft.cli.args.model_config import add_config_model, model_config
from weft.cli.args.quantization import COUNTED, check_batch, choices_from, file_from, storage_from
from weft.cli.view.console import PipedConsole
from weft.engine.core.limits import max_logprobs
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import describe
from weft.runtime.launch_plan.step_limits import check_context, with_step_tokens
from weft.tools.explain import document, explain, json_schema, print_report, to_svg
from weft.tools.explain.cores import Cores, RankCores
from weft.tools.explain.fits import CacheLimits, StepLoad, budget, cache_lines, fit, lines

LIMITS = ("max_model_len", "block_size", "kv_cache_memory", "mem_fraction_static", "max_logprobs")
"""Limits of a server: what they leave room for is said."""
CORES = ("threads", "cpus", "server_cpus")
"""Options that assign cores of this machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL may also be a bare config.json."""
    add_config_model(parser)
    add_layout_arguments(parser)
    add_engine_arguments(parser, only=(*COUNTED, *LIMITS, *CORES))
    add_dialect_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--batch", type=int, default=8, metavar="N", help="rows per dp group to price a step at, beside 1 (default: 8)"
    )
    group.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="price a step whose requests ask for log-probabilities, of N other tokens",
    )
    group.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="memory of a rank, as 80GiB: does it fit, what KV remains"
    )
    group.add_argument("--svg", metavar="FILE", type=Path, help="write the picture of the layout as SVG, too")
    group.add_argument("--json", action="store_true", help="print JSON, with the schema that --schema prints")
    group.add_argument("--schema", action="store_true", help="print the JSON schema of --json and end")


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    check_batch(args.batch)
    take_foreign(args, only=(*COUNTED, *LIMITS))
    name, config = model_config(args.model, args.revision, without_checkpoint=args.without_checkpoint)
    engine = engine_config_from(args)
    layout = layout_from(args, config, runnable=False)
    check_context(engine.max_model_len, config.longest_position)
    engine = with_step_tokens(replace(engine, dtype=resolve_dtype(engine.dtype, config.dtype)), layout)
    file = file_from(args)
    storage, cores = storage_from(engine, config, file), _cores(engine, layout)
    choices = choices_from(engine, config, file, storage)
    report = explain(
        name, config, layout, dtype=engine.dtype, batch=args.batch, storage=storage, choices=choices, cores=cores,
        logprobs=_logprobs(args.logprobs, engine, config),
        chunk=(engine.tokens_per_step, engine.tokens_per_block),
    )  # fmt: skip
    if args.svg is not None:
        _write(args.svg, to_svg(report))
    if args.json:
        print(_json(document(report)))
    else:
        print_report(report, _console())
    itemsize = DTYPE_BYTES[engine.dtype]
    load = StepLoad(engine.tokens_per_step, engine.max_num_seqs, itemsize, storage)
    found = None
    if args.memory is not None:
        options = {**getattr(args, "dialect_options", {}), "mem_fraction_static": engine.mem_fraction_static}
        found = fit(config, layout, load, budget(args.memory, options))
    limits = CacheLimits(engine.kv_cache_memory, engine.max_model_len, engine.tokens_per_block)
    text = [*(lines(found) if found is not None else ()), *cache_lines(found, report.ranks, limits)]
    if text:
        print("\n".join(text), file=sys.stderr if args.json else sys.stdout)
    return 0 if found is None or found.fits else 1


def _logprobs(asked: int | None, engine: EngineConfig, config: ModelConfig) -> int | None:
    """ConfigError: no request may ask for so many."""
    most = max_logprobs(engine, config.vocab_size)
    if asked is not None and asked != -1:
        check_range("--logprobs", asked, 0, most)
    return most if asked == -1 else asked


def _cores(engine: EngineConfig, layout: Layout) -> Cores | None:
    """The assignment of this machine's cores, where cores were asked for. ConfigError: `weft serve` would refuse it."""
    asked = [name for name in CORES if getattr(engine, name) is not None]
    if not asked:
        return None
    if layout.nodes > 1:
        name, value = asked[0], getattr(engine, asked[0])
        why = f"the layout has {layout.nodes} nodes, of which this machine is one; leave --{name.replace('_', '-')} out"
        raise ConfigError(f"{name} {shown(value)}: {why}", field=name, value=value)
    # Here and not at the top: all that a start decides, which is seldom asked for.
    from weft.runtime.launch_plan.plan import assign_cpus_here

    assignment = assign_cpus_here(layout, engine)
    where = [describe(layout, rank) for rank in range(layout.world)]
    shares = tuple(RankCores(share.cpus, share.threads) for share in assignment.shares)
    return Cores(shares, assignment.server, tuple(assignment.lines(where)))


def _json(value: object) -> str:
    """As `json.dumps` with an indent of 2, which is written in Python: here numbers are many."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return text if text.isascii() else json.dumps(value, indent=2)


def _bytes(text: str) -> int:
    with contextlib.suppress(ValueError):
        if size := parse_bytes(text):
            return size
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, or a size such as 80GiB")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--svg {file}: {error.strerror}") from None


def _console() -> Console:
    """As wide as the terminal; wide enough for every column where the output goes to a file or a pipe."""
    return PipedConsole() if sys.stdout.isatty() else PipedConsole(width=160)
