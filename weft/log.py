"""Logging of one process: one line per record on stderr, with the rank where there is one. Knows no module of weft."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from weft.env import log_level
from weft.errors import ConfigError

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Handler(logging.StreamHandler[TextIO]):
    """Lines that cannot be written, as on a full disk, are dropped and counted; the next that can says how many."""

    dropped = 0

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return f"{line} ({self.dropped} lines before this one were late or lost)" if self.dropped else line

    def emit(self, record: logging.LogRecord) -> None:
        before = self.dropped
        super().emit(record)
        if self.dropped == before:
            self.dropped = 0

    def handleError(self, record: logging.LogRecord) -> None:
        self.dropped += 1


def configure(name: str = "", level: str | None = None) -> None:
    """Sends weft's log to stderr, each line headed by time, level and the process's name, e.g. 'rank 3'."""
    level = (level or log_level()).upper()
    if level not in _LEVELS:
        legal = ", ".join(known.lower() for known in _LEVELS)
        raise ConfigError(f"WEFT_LOG {level.lower()}: legal: {legal}", field="WEFT_LOG", value=level, legal=_LEVELS)
    head = f"{name}: " if name else ""
    handler = _Handler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname).1s {head}%(message)s", "%H:%M:%S"))
    root = logging.getLogger("weft")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: get_logger(__name__)."""
    return logging.getLogger(name)
