"""`weft probe`: asks the agent or the server of a container whether it is ready. No torch."""

from __future__ import annotations

import argparse
import sys

from weft.runtime.agent.probe import asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The address, and which answer is enough."""
    parser.add_argument(
        "where",
        metavar="WHERE",
        help="the agent's socket (--agent-socket), or a URL such as http://127.0.0.1:8000/ready",
    )
    parser.add_argument("--alive", action="store_true", help="succeed with any answer, also that it is not ready")


def run(args: argparse.Namespace) -> int:
    """Prints the answer; 0: ready, 1: not ready or no answer."""
    try:
        ready, text = asked(args.where)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{args.where}: {error}\n")
        return 1
    print(text)
    return 0 if ready or args.alive else 1
