"""`weft`: the way in. Imports next to nothing, so that Ctrl-C ends a command without a word from the start."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs `weft COMMAND ...`; gives the exit code."""
    try:
        from weft.cli.commands import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
