"""Logging of one process: one line per record on stderr, with the rank where there is one. Knows no module of weft."""

from __future__ import annotations

import logging
import sys

from weft.env import log_level
from weft.errors import ConfigError

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def configure(name: str = "", level: str | None = None) -> None:
    """Sends weft's log to stderr, each line headed by time, level and the process's name, e.g. 'rank 3'."""
    level = (level or log_level()).upper()
    if level not in _LEVELS:
        legal = ", ".join(known.lower() for known in _LEVELS)
        raise ConfigError(f"WEFT_LOG {level.lower()}: legal: {legal}", field="WEFT_LOG", value=level, legal=_LEVELS)
    head = f"{name}: " if name else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname).1s {head}%(message)s", "%H:%M:%S"))
    root = logging.getLogger("weft")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: get_logger(__name__)."""
    return logging.getLogger(name)
