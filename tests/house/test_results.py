"""Saved results and the pages about speed: few files, each in the index, short plain sentences, few numbers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
INDEX = tomllib.loads((RESULTS / "index.toml").read_text())
FILES = {path.name for path in RESULTS.iterdir()} - {"index.toml"}
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("performance.md", "measured.md", "performance_log.md")}
MOST_FILES, MOST_SCRIPTS = 40, 25
MOST_LINES = 260
"""Of performance.md and measured.md together."""
MOST_WORDS, MEAN_WORDS, MOST_NUMBERS = 45, 22, 4


def paragraphs(page: str) -> list[str]:
    """Paragraphs and list items; tables, headings, pictures and code are none."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.S | re.M)
    text = re.sub(r"^(\||#|!\[).*$", "", text, flags=re.M)
    text = re.sub(r"^\* ", "\n", text, flags=re.M)
    found = [re.sub(r"\]\([^)]*\)", "]", " ".join(part.split())) for part in text.split("\n\n")]
    return [part for part in found if part]


def lengths(page: str) -> list[int]:
    """Words of each sentence."""
    return [
        len(one.split()) for part in paragraphs(page) for one in re.split(r"(?<=[.!?:])\s+(?=[\"`*\[A-Z0-9])", part)
    ]


def test_results_are_few_and_indexed() -> None:
    assert len(FILES) <= MOST_FILES
    assert set(INDEX) == FILES


@pytest.mark.parametrize("name", sorted(INDEX))
def test_a_result_has_what_machine_and_commit(name: str) -> None:
    entry = INDEX[name]
    assert set(entry) == {"what", "machine", "commit"} and entry["what"]
    assert re.fullmatch(r"[0-9a-f]{12}", entry["commit"])
    assert re.fullmatch(rf"[a-z0-9-]+-{entry['machine']}\.(json|md|png)", name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_result_has_no_commit_in_its_name(name: str) -> None:
    words = re.split(r"[-_.]", name)
    assert [word for word in words if re.fullmatch(r"(?=.*\d)[0-9a-f]{7,40}", word)] == []


def test_machines_are_described() -> None:
    described = set(re.findall(r"^\| (\w+) \|", PAGES["measured.md"], re.M))
    assert {entry["machine"] for entry in INDEX.values()} <= described


def test_scripts_are_few() -> None:
    """Commands that a person starts; drivers of other engines and their clients are started by these."""
    folder = ROOT / "benchmarks"
    started = [*folder.glob("*.py"), *(folder / "server").glob("*.py")]
    started += [folder / "clients" / "run.py", folder / "peers" / "main.py", folder / "peers" / "vllm_profile.py"]
    assert all('__name__ == "__main__"' in path.read_text() for path in started)
    assert len(started) <= MOST_SCRIPTS


def test_pages_are_short() -> None:
    assert sum(len(PAGES[name].splitlines()) for name in ("performance.md", "measured.md")) <= MOST_LINES


@pytest.mark.parametrize("name", PAGES)
def test_sentences_are_short(name: str) -> None:
    found = lengths(PAGES[name])
    assert max(found) <= MOST_WORDS
    assert sum(found) / len(found) <= MEAN_WORDS


@pytest.mark.parametrize("name", ("performance.md", "measured.md"))
def test_a_paragraph_has_few_numbers(name: str) -> None:
    for part in paragraphs(PAGES[name]):
        prose = re.sub(r"`[^`]*`", "", part)
        assert len(re.findall(r"(?<![\w.,-])\d[\d.,]*(?!\w)", prose)) <= MOST_NUMBERS, part


def test_every_experiment_has_a_decision() -> None:
    rows = re.findall(r"^\| 20\d\d-\d\d-\d\d \|.*\|$", PAGES["performance_log.md"], re.M)
    assert len(rows) > 50
    decisions = {row.split("|")[-2].strip() for row in rows}
    assert all(re.search("kept|refused|deleted|as above", one) for one in decisions)
