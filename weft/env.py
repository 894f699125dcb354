"""The environment variables that weft reads, all in one place.

WEFT_CACHE   directory of downloaded files      (default: $XDG_CACHE_HOME/weft or ~/.cache/weft)
WEFT_DEBUG   1: errors of a command show where they were raised
WEFT_LOG     level of the log: debug, info, warning, error (default: info)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where downloaded files are kept; may not exist yet."""
    if environ.get("WEFT_CACHE"):
        return Path(environ["WEFT_CACHE"]).expanduser()
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "weft"


def debug(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether tracebacks are wanted."""
    return environ.get("WEFT_DEBUG", "") not in ("", "0")


def log_level(environ: Mapping[str, str] = os.environ) -> str:
    """Name of the wanted log level, in capitals, unchecked."""
    return environ.get("WEFT_LOG", "info").upper()
