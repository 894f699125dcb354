"""Entry point of `weft`. Imports almost nothing, so that Ctrl-C ends a command silently at any time."""

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
    """Opens /dev/null for a closed stdin, stdout or stderr: otherwise the next file would get its descriptor, and with
    it the output of ranks."""
    import os

    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    sys.stdin = sys.stdin or open(0, closefd=False)


if __name__ == "__main__":
    sys.exit(main())
