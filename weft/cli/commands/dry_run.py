"""`weft dry-run`: the real model code as one rank of any world, on tensors without content. Memory and collectives."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from weft.base.options import check_range
from weft.base.settings import resolve_dtype
from weft.cli.args.model import add_engine_arguments, add_layout_arguments, engine_config_from, layout_from
from weft.cli.args.model_config import add_config_model, model_config
from weft.cli.args.quantization import COUNTED, check_batch, choices_from, file_from, storage_from
from weft.parallel.arch.shards import Shards
from weft.runtime.launch_plan.step_limits import with_step_tokens
from weft.runtime.worker.numerics import torch_dtype
from weft.tools.explain.largest import largest_bytes, largest_note
from weft.tools.explain.notes import refusals
from weft.tools.verify.dry_run.report import document, lines
from weft.tools.verify.dry_run.run import PromptStep, dry_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, the layout, and which rank of it."""
    add_config_model(parser)
    add_layout_arguments(parser)
    add_engine_arguments(parser, only=(*COUNTED, "block_size"))
    group = parser.add_argument_group("dry run")
    group.add_argument("--rank", type=int, default=0, metavar="R", help="the rank to run as (default: 0)")
    group.add_argument("--batch", type=int, default=1, metavar="N", help="decode rows in every dp group (default: 1)")
    group.add_argument(
        "--prompt-rows",
        type=int,
        metavar="N",
        help="instead, a prompt's first N rows in every dp group",
    )
    group.add_argument("--json", action="store_true", help="print JSON, schema weft.dry-run/3")


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    name, config = model_config(args.model, args.revision, without_checkpoint=args.without_checkpoint)
    engine = engine_config_from(args)
    layout = layout_from(args, config, runnable=False)
    check_range("--rank", args.rank, 0, layout.world - 1)
    check_batch(args.batch)
    if args.prompt_rows is not None:
        check_range("--prompt-rows", args.prompt_rows, 1, config.context)
    engine = with_step_tokens(replace(engine, dtype=resolve_dtype(engine.dtype, config.dtype)), layout)
    file = file_from(args)
    storage = storage_from(engine, config, file)
    choices = choices_from(engine, config, file, storage)
    storage = replace(storage, compressed=choices.compressed)
    shards = Shards(config, layout, storage=storage)
    prompt = PromptStep(args.prompt_rows, engine.tokens_per_block) if args.prompt_rows else None
    found = dry_run(shards, args.rank, torch_dtype(engine.dtype), args.batch, prompt)
    programs = choices.programs and prompt is None
    largest = largest_bytes(layout, (args.batch,)) if programs else ()
    notes = (*refusals(shards, engine.device), *largest_note(largest), *choices.notes)
    if args.json:
        print(json.dumps(document(found, storage, notes, config.quantization), indent=2))
    else:
        print("\n".join(lines(name, shards, engine.dtype, found, notes)))
    return 0
