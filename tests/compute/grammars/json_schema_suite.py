"""The JSON-Schema organisation's own test suite, from the source package of `jsonschema`, kept in weft's cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from weft.model.checkpoint.hub.embedded import cache_dir

VERSION = "4.26.0"
FOLDER = f"jsonschema-{VERSION}"


@cache
def suite(draft: str) -> dict[str, list[dict[str, Any]]]:
    """Mandatory cases of a draft, by file: schemas with their documents. Skips where pip cannot have the package."""
    root = _unpacked() / "json" / "tests" / draft
    return {path.stem: json.loads(path.read_text()) for path in sorted(root.glob("*.json"))}


def _unpacked() -> Path:
    kept = cache_dir() / FOLDER
    if not (kept / "json" / "tests").is_dir():
        with tempfile.TemporaryDirectory() as folder:
            words = ["download", "--quiet", "--no-deps", "--no-binary", "jsonschema", "-d", folder]
            done = subprocess.run([sys.executable, "-m", "pip", *words, f"jsonschema=={VERSION}"], capture_output=True)
            found = [*Path(folder).glob("*.tar.gz")]
            if done.returncode or not found:
                pytest.skip(f"pip cannot have the source of jsonschema: {done.stderr.decode()[-200:]}")
            with tarfile.open(found[0]) as archive:
                cache_dir().mkdir(parents=True, exist_ok=True)
                archive.extractall(cache_dir(), filter="data")
    return kept
