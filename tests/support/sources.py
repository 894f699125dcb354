"""Python files of this working copy as trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from weft.base.machine.memory_trim import not_collected


@cache
def parsed(path: Path) -> ast.Module:
    """A file's tree, which several rules are held against and none may change: it is kept, and all of them take seconds
    to parse, most of that in a collector that finds nothing."""
    with not_collected():
        return ast.parse(path.read_text(), str(path))
