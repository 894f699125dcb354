"""`weft calibrate`: measures this machine's products of a model's shapes, for `weft plan --cluster here`.

What is in the file already, for this CPU, build and number of threads, is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from weft.base.errors import UsageError
from weft.base.machine.cores import available_cores
from weft.base.settings import resolve_dtype
from weft.cli.args.model import add_engine_arguments, engine_config_from
from weft.cli.args.model_config import add_config_model, model_config
from weft.cli.args.ranks import say_native
from weft.cli.calibration import build_here, calibration_file, cpu_here
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import resolve_for
from weft.parallel.arch.shards import Shards
from weft.tools.calibrate.kept import ROWS, SCHEMA, Calibration, ProductShape, merged, read
from weft.tools.calibrate.products import timed
from weft.tools.explain.work.work import CountedStep, work_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, whose shapes are measured, and where the result goes."""
    add_config_model(parser)
    add_engine_arguments(parser, only=("dtype", "quantization", "activations", "compress_weights"))
    group = parser.add_argument_group("output")
    group.add_argument("--save", type=Path, metavar="FILE", help=f"where it is kept (default: {calibration_file().name}"
                       " among what weft caches, where weft plan finds it)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    name, config = model_config(args.model, args.revision, without_checkpoint=args.without_checkpoint)
    engine = engine_config_from(args)
    engine = replace(engine, dtype=resolve_dtype(engine.dtype, config.dtype))
    say_native(_say)
    path: Path = args.save or calibration_file()
    old = read(path, cpu_here(), build_here())
    threads = len(available_cores())
    there = {one.key for one in old.products} if old is not None else set()
    wanted = [shape for shape in shapes_of(config)
              if (shape.depth, shape.columns, engine.dtype, engine.quantization, threads) not in there]  # fmt: skip
    _say(f"{name}: {len(wanted)} shapes to measure at {', '.join(map(str, ROWS))} rows with {threads} threads")
    found = []
    for one in timed(wanted, engine, threads):
        found.append(one)
        words = ", ".join(
            f"{rows}: {seconds * 1e6:.0f} us" for rows, seconds in zip(one.rows, one.seconds, strict=True)
        )
        print(f"{one.depth} x {one.columns}: {words}")
    date = datetime.now(UTC).date().isoformat()
    new = merged(old, Calibration(SCHEMA, cpu_here(), build_here(), date, tuple(found)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(new)) + b"\n")
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror}") from None
    _say(f"kept in {path}")
    return 0


def shapes_of(config: ModelConfig) -> list[ProductShape]:
    """The distinct products of one rank that has the whole model."""
    shards = Shards(config, resolve_for(config, {}))
    (one,) = work_of(shards, 2, CountedStep(1, 1))
    return sorted({ProductShape(product.depth, product.columns) for product in one.products},
                  key=lambda shape: (shape.depth, shape.columns))  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
