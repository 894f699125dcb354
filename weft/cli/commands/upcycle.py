"""`weft upcycle`: a dense checkpoint becomes a mixture of experts with the same answers and a chosen routing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from weft.base.options import check_range
from weft.base.printable import printable_lines
from weft.base.settings import DTYPE_BYTES
from weft.cli.args.checkpoints import opened
from weft.cli.args.model import add_model, add_verify_checkpoint
from weft.compute.native.build import ensure_built
from weft.runtime.worker.numerics import torch_dtype
from weft.tools.upcycle.routers import Skew
from weft.tools.upcycle.upcycle import Recipe, upcycle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the recipe."""
    add_model(parser)
    add_verify_checkpoint(parser)
    group = parser.add_argument_group("recipe")
    group.add_argument("--experts", type=int, default=8, metavar="N", help="copies of every MLP (default: 8)")
    group.add_argument("--top-k", type=int, default=2, metavar="K", help="experts of a row (default: 2)")
    group.add_argument("--skew", default="none", metavar="SKEW", help="shares of the experts: none, or zipf:1.2")
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the new checkpoint")
    group.add_argument("--dtype", choices=tuple(DTYPE_BYTES), default="bfloat16", help="of the written weights")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="of the routers (default: 0)")


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    check_range("--experts", args.experts, 1)
    ensure_built(say=_say)
    recipe = Recipe(args.experts, args.top_k, Skew.parse(args.skew), args.seed, torch_dtype(args.dtype))
    upcycle(opened(args, args.model, _say), recipe, args.out, _say)
    print(f"{args.out}: {args.experts} experts, {args.top_k} a row, skew {args.skew}; weft serve {args.out} serves it")
    return 0


def _say(line: str) -> None:
    print(printable_lines(line), file=sys.stderr, flush=True)
