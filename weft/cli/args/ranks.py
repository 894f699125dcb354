"""Options of every command that starts ranks: collectives; and building the C++ parts first."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from weft.cli.args.parser import Expert
from weft.compute.comm.registry import CHOICES
from weft.compute.native.build import ensure_built


def add_comm_argument(group: argparse._ActionsContainer) -> None:
    """--comm."""
    group.add_argument(
        "--comm",
        default="auto",
        choices=CHOICES,
        help=Expert("collectives between ranks; auto: shared_memory where the C++ parts are built (default: auto)"),
    )


def say_native(say: Callable[[str], None]) -> None:
    """Builds missing C++ parts; reports a build or a failure."""
    for status in ensure_built(say=say):
        if status.state == "built":
            say(f"compiled {status.name} in {status.seconds:.1f} s")
        elif status.state != "current":
            say(f"C++ part {status.name}: {status.state}: {status.reason}; PyTorch is used: the same answers, slower")
