"""Python processes of weft's own modules. They find weft where this process found it, and nothing in the working
directory: a user's file there may be called as a module of the standard library is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])


def runs(module: str) -> tuple[str, ...]:
    """The words that run `module`; to be started with `finding_weft`."""
    return (sys.executable, "-P", "-m", module)


def finding_weft(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment`, where needed with the folder in which weft lies: the first place that this process imports from
    (the working directory, with `python -m`) is not one of its children's."""
    if _ROOT in sys.path[1:]:
        return dict(environment)
    others = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": os.pathsep.join((_ROOT, others) if others else (_ROOT,))}
