"""A weft command in a child process that ends with its parent: `python -P -m weft.cli.hosted FD PID BY_SIGNAL ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from weft.base.machine.interpreter import runs
from weft.base.machine.parent_death import tie_to_parent
from weft.cli.main import main

PROGRAM = runs("weft.cli.hosted")


def host(words: Sequence[str]) -> int:
    """Ties this process to its parent, then runs the command."""
    fd, parent, by_signal, *command = words
    tie_to_parent(int(parent), int(fd), by_signal=by_signal == "1")
    return main(command)


if __name__ == "__main__":
    sys.exit(host(sys.argv[1:]))
