"""What README and docs say that was measured, and saved results: for tests that hold one against the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text().split("## What was measured")[1].split("\n## ")[0]
MEASURED = README + (ROOT / "docs" / "measured.md").read_text()
PLAIN = " ".join(MEASURED.split())
PERFORMANCE = " ".join((ROOT / "docs" / "performance.md").read_text().split())
SERVING = " ".join((ROOT / "docs" / "serving.md").read_text().split())
MAIN = "peers.md"


def saved(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def rows(title: str, keys: int, page: str = MAIN) -> dict[tuple[str, ...], dict[str, str]]:
    """A table of a page by engine, and with two `keys` by streams too; of cells what stands before any bracket."""
    lines = (RESULTS / page).read_text().split(f"## {title}")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head = table[0]
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for cells in table[2:]:
        named = dict(zip(head, (re.split(r" [(\[]", cell)[0] for cell in cells), strict=True))
        found[(cells[0], named.get("streams", ""))[:keys]] = named
    return found


def leads(page: str) -> dict[tuple[str, str, str], str]:
    """Of weft over the fastest of the others, as a page has it, by weft's engine, case and quantity."""
    lines = (RESULTS / page).read_text().split("## Ratios of medians")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    return {(ours, case, quantity): ratio for ours, _, case, quantity, ratio, _ in cells}


def shares(engine: str, page: str = MAIN) -> list[str]:
    """Percents of its bounds that an engine reaches offline, case by case."""
    offline = (RESULTS / page).read_text().split("## Offline")[1].split("\n## ")[0]
    (line,) = (line for line in offline.splitlines() if line.startswith(f"| {engine} |"))
    return re.findall(r"\((\d+)%\)", line)


def whole(table: dict[tuple[str, ...], dict[str, str]], engines: Iterable[str], column: str) -> list[str]:
    """Of a table by engine: one column's figures as they are quoted, without fractions."""
    return [f"{float(table[engine,][column].split()[0]):.0f}" for engine in engines]
