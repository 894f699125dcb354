"""A wheel holds every file of the package, C++ headers at every depth among them: the globs of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from weft.compute.native.libraries import SOURCES

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "weft"
MADE = {"_build", "__pycache__"}
"""Folders that are written at run time."""


def packaged() -> set[Path]:
    """Files that the globs of package data find, and modules."""
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["weft"]
    return {path for pattern in (*globs, "**/*.py") for path in PACKAGE.glob(pattern)}


def test_every_file_is_packaged() -> None:
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and not MADE & {*path.parts}}
    files = {path for path in files if path.name != "README.md"}
    headers = {path for path in files if path.suffix == ".h"}
    assert max(len(path.relative_to(SOURCES).parts) for path in headers) > 2
    assert sorted(map(str, files - packaged())) == []


def test_every_folder_with_modules_is_a_package() -> None:
    """Others would be left out of a wheel."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
