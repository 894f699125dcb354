"""Options of every command that starts ranks: collectives; and building the C++ parts first."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

from weft.cli.args.parser import Expert
from weft.comm.registry import CHOICES
from weft.errors import UsageError
from weft.native.build import ensure_built


def add_comm_argument(group: argparse._ActionsContainer) -> None:
    """--comm."""
    group.add_argument(
        "--comm",
        default="auto",
        choices=CHOICES,
        help=Expert("collectives between ranks; auto: shared_memory where the C++ parts are built (default: auto)"),
    )


def refuse_several_starts(environ: Mapping[str, str] = os.environ) -> None:
    """UsageError: torchrun, or a launcher like it, starts this command several times; each would start all ranks."""
    several = environ.get("WORLD_SIZE", "1") not in ("", "1") and "LOCAL_RANK" in environ
    if several or "TORCHELASTIC_RUN_ID" in environ:
        raise UsageError(
            "weft starts its ranks itself, and torchrun would start all of them again in each of its processes: run"
            " the command once, with --tp N; on several hosts once on each, with --nnodes and --node-rank"
        )


def say_native(say: Callable[[str], None]) -> None:
    """Builds missing C++ parts; reports a build or a failure."""
    for status in ensure_built(say=say):
        if status.state == "built":
            say(f"compiled {status.name} in {status.seconds:.1f} s")
        elif status.state != "current":
            say(f"C++ part {status.name}: {status.state}: {status.reason}; PyTorch is used: the same answers, slower")
