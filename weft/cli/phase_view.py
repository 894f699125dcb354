"""Shows the start-up phases of all ranks: a table that changes in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from weft.cli.plain_view import PlainView


def phase_view(where: Sequence[str], out: TextIO | None = None) -> PlainView:
    """The view that suits `out` (stdout): live where it is a terminal."""
    out = out or sys.stdout
    if not out.isatty():
        return PlainView(out)
    # Here and not at the top: what draws tables takes long to import.
    from weft.cli.live_view import LiveView

    return LiveView(out, where)
