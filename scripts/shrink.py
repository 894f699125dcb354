"""Rewrites tests/house/allowed.toml: what is still allowed of idioms, shared class names and large folders.

Each section may only shrink in sum, so files can move between packages. A merge conflict in the file is solved by
running this script: lines between conflict marks are read too, and the smaller number of one name counts.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from scripts import prose  # noqa: E402

ALLOWED = ROOT / "tests" / "house" / "allowed.toml"
HEAD = "# Limits that only shrink; written by scripts/shrink.py, held by tests/house/test_shrinking.py.\n"
FILES_PER_FOLDER = 15
SOURCES = {".py", ".cpp", ".h"}
RATE = "idioms in 1,000 words of weft"
GOAL = 1.0
"""Of that rate: the limit is not lowered further."""

Counts = dict[str, dict[str, float]]


def idioms(root: Path = ROOT) -> dict[str, float]:
    """Idioms by package."""
    counts = {name: len(sum(map(prose.found, paths), [])) for name, paths in prose.packages(root).items()}
    return {name: count for name, count in counts.items() if count}


def rate(counts: dict[str, float], root: Path = ROOT) -> dict[str, float]:
    """Idioms in 1,000 words of the product, rounded up to one decimal; GOAL where there are fewer."""
    product = {name: paths for name, paths in prose.packages(root).items() if name.startswith("weft")}
    words = sum(prose.words(path) for paths in product.values() for path in paths)
    tenths = math.ceil(10_000 * sum(counts.get(name, 0) for name in product) / words)
    return {RATE: max(GOAL, tenths / 10)}


def shared_class_names(root: Path = ROOT) -> dict[str, float]:
    """Public classes of modules of weft that stand in two or more top-level packages: in how many."""
    packages: dict[str, set[str]] = defaultdict(set)
    for path in (root / "weft").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                packages[node.name].add(path.relative_to(root / "weft").parts[0])
    return {name: len(found) for name, found in packages.items() if len(found) > 1}


def large_folders(root: Path = ROOT) -> dict[str, float]:
    """Folders with more source files than FILES_PER_FOLDER, `__init__.py` not counted."""
    counts: dict[str, float] = defaultdict(int)
    for top in ("weft", "tests", "benchmarks"):
        for path in (root / top).rglob("*"):
            if path.suffix in SOURCES and path.name != "__init__.py" and "_build" not in path.parts:
                counts[str(path.parent.relative_to(root))] += 1
    return {folder: count for folder, count in counts.items() if count > FILES_PER_FOLDER}


def counted(root: Path = ROOT) -> Counts:
    """What stands in the working copy, by section of the file."""
    found = idioms(root)
    return {
        "idioms": found,
        "rate": rate(found, root),
        "class_names": shared_class_names(root),
        "folders": large_folders(root),
    }


def read(text: str) -> Counts:
    """The file's sections; it may hold conflict marks."""
    sections: Counts = {}
    names: dict[str, float] = {}
    for line in text.splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            names = sections.setdefault(head[1], {})
        elif entry := re.fullmatch(r'"(.+)" = ([\d.]+)', line):
            names[entry[1]] = min(names.get(entry[1], float("inf")), float(entry[2]))
    return sections


def written(counts: Counts) -> str:
    """The file's text, one entry a line."""
    text = HEAD
    for section, names in counts.items():
        text += f"\n[{section}]\n" + "".join(f'"{name}" = {names[name]:g}\n' for name in sorted(names))
    return text


def main() -> int:
    """Writes every section that did not grow in sum; exit 1 where one did."""
    allowed, here = read(ALLOWED.read_text()), counted()
    grown = [section for section, names in here.items() if sum(names.values()) > sum(allowed[section].values())]
    for section in grown:
        for name, count in here[section].items():
            if count > allowed[section].get(name, 0):
                print(f"{section}: {name} has {count:g}, {allowed[section].get(name, 0):g} allowed")
    ALLOWED.write_text(written({name: allowed[name] if name in grown else here[name] for name in here}))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
