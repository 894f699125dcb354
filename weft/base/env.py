"""The environment variables that weft reads beside its options.

- WEFT_DEBUG: 1 makes a failing command show where the error was raised.
- WEFT_LOG: level of the log: debug, info, warning or error (info when not set).
- WEFT_LOG_FORMAT: text or json (text when not set).
- WEFT_API_KEY, WEFT_ADMIN_KEY: keys of the server, where no option gives them.
- WEFT_CACHE: directory of downloaded files and remembered hashes (~/.cache/weft when not set); read in `checkpoint`.
- WEFT_DIST_SECRET: the secret that hosts prove to each other, where --dist-secret-file does not give it;
  ranks do not have it.
- WEFT_FAULT: faults on purpose, for tests (`runtime/worker/faults.py`); read only where WEFT_TEST_FAULTS is 1.
- WEFT_NATIVE: 0 switches compiled code off, the plain paths run (1 when not set); read in `native`.
- WEFT_NATIVE_ISA: amx, avx512bf16, avx512vnni, avx512, avx2 or generic: the variant of the step library, where the best
  that the CPU runs is not wanted; read in `native`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

DIST_SECRET = "WEFT_DIST_SECRET"


def own(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """All of them that are set and that a rank may have."""
    return {name: value for name, value in environ.items() if name.startswith("WEFT_") and name != DIST_SECRET}


def debug(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether tracebacks are wanted."""
    return environ.get("WEFT_DEBUG", "") not in ("", "0")


def log_level(environ: Mapping[str, str] = os.environ) -> str:
    """Name of the wanted log level, in capitals, unchecked."""
    return environ.get("WEFT_LOG", "info").upper()


def faults(environ: Mapping[str, str] = os.environ) -> str:
    """The faults that a test asks for; empty without the flag that only tests set."""
    return environ.get("WEFT_FAULT", "") if environ.get("WEFT_TEST_FAULTS", "") == "1" else ""


def log_format(environ: Mapping[str, str] = os.environ) -> str:
    """Name of the wanted form of log lines, unchecked."""
    return environ.get("WEFT_LOG_FORMAT") or "text"


def dist_secret(environ: Mapping[str, str] = os.environ) -> str:
    """The secret that hosts prove to each other; empty where it is not set."""
    return environ.get(DIST_SECRET, "").strip()


def api_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key that clients of the server must send."""
    return environ.get("WEFT_API_KEY") or None


def admin_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key of the server's admin routes."""
    return environ.get("WEFT_ADMIN_KEY") or None
