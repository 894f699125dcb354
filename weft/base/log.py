"""Logging of one process: one line per record on stderr, with the rank where there is one."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import TextIO

from weft.base.env import log_format, log_level
from weft.base.errors import ConfigError

_FORMATS = ("text", "json")
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
    form = log_format()
    if form not in _FORMATS:
        legal = ", ".join(_FORMATS)
        raise ConfigError(
            f"WEFT_LOG_FORMAT {form}: legal: {legal}", field="WEFT_LOG_FORMAT", value=form, legal=_FORMATS
        )
    head = f"{name}: " if name else ""
    text = logging.Formatter(f"%(asctime)s %(levelname).1s {head}%(message)s", "%H:%M:%S")
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json(name) if form == "json" else text)
    root = logging.getLogger("weft")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def is_debug() -> bool:
    """Whether this process, once `configure`d, logs everything."""
    return logging.getLogger("weft").isEnabledFor(logging.DEBUG)


def to_children(level: str | None, form: str | None, environ: MutableMapping[str, str] = os.environ) -> None:
    """Puts a command's own choice where this process and the ranks that it starts look."""
    for name, value in (("WEFT_LOG", level), ("WEFT_LOG_FORMAT", form)):
        if value is not None:
            environ[name] = value


class _Json(logging.Formatter):
    """A record as one line of JSON: time in UTC, level, process, logger, message, and where an error was raised."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process or "server",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: get_logger(__name__)."""
    return logging.getLogger(name)
