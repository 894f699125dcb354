"""`weft`: the way in. Imports next to nothing, so that Ctrl-C ends a command without a word from the start."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs `weft COMMAND ...`; gives the exit code."""
    try:
        _open_closed()
        from weft.cli.dispatch import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_closed() -> None:
    """Where stdin, stdout or stderr was closed there is a place now that takes all and gives nothing: else the next
    file would be opened in it, and get what a rank prints."""
    import os

    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    sys.stdin = sys.stdin or open(0, closefd=False)


if __name__ == "__main__":
    sys.exit(main())
