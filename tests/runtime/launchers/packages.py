"""Packages that only some tests need, each set in a folder of its own, which the first test that asks for it makes.

They stay out of the development environment: they are large, or bring other versions of what is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 240


def packages(*wanted: str) -> Path:
    """The folder, for PYTHONPATH. Skips, with the reason, where the packages cannot be had."""
    name = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft-tests" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of the run wait
        if not folder.exists() and (reason := _installed(folder, wanted)):
            pytest.skip(f"{', '.join(wanted)} cannot be installed: {reason}")
    return folder


def _installed(folder: Path, wanted: tuple[str, ...]) -> str:
    """Why not; empty: they are."""
    parts = folder.with_suffix(".part")
    shutil.rmtree(parts, ignore_errors=True)
    words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(parts)]
    try:
        done = subprocess.run([*words, *wanted], capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"not within {LIMIT_S} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    parts.rename(folder)
    return ""
