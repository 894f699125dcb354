"""Lines of a server to whoever started it. A disk that is full must not end what they only tell about."""

from __future__ import annotations

import errno
import os
from typing import TextIO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def say(line: str, out: TextIO, *, to_nobody: bool = False) -> None:
    """One line, at once; dropped, with all that `out` still holds, where it cannot be written for want of room.
    `to_nobody`: also where nobody reads it any more, which otherwise ends the command."""
    try:
        print(line, file=out, flush=True)
    except OSError as error:
        if error.errno not in _FULL and not (to_nobody and error.errno == errno.EPIPE):
            raise
        _forget(out)


def _forget(out: TextIO) -> None:
    """Empties the buffer of `out` into nothing: else it would fail again at the process's end."""
    kept = os.dup(out.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, out.fileno())
        out.flush()
    finally:
        os.dup2(kept, out.fileno())
        os.close(kept)
        os.close(nowhere)
