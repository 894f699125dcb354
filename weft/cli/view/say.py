"""say: prints a line of a server. A full disk must not end the server."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from weft.base.printable import printable_lines, without_controls

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def say(line: str, out: TextIO, *, ignore_closed: bool = False) -> None:
    """Prints one line and flushes; where the disk is full, drops the line and everything that `out` has buffered.
    `ignore_closed`: also where the reader has closed the pipe, which otherwise raises."""
    try:
        print(printable_lines(line), file=out, flush=True)
    except OSError as error:
        if error.errno not in _FULL and not (ignore_closed and error.errno == errno.EPIPE):
            raise
        _forget(out)


def shown_text(text: str) -> str:
    """What a model has written, for stdout: a terminal gets no control characters of its vocabulary."""
    return without_controls(text) if sys.stdout.isatty() else text


def _forget(out: TextIO) -> None:
    """Discards the buffer of `out`: flushing at the end of the process would fail again."""
    kept = os.dup(out.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, out.fileno())
        out.flush()
    finally:
        os.dup2(kept, out.fileno())
        os.close(kept)
        os.close(nowhere)
