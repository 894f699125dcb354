"""The site of `make docs`: its generated pages and pictures equal what makes them, its indexes name every page, its
sentences are short. Building it is `make docs`, which checks links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import pictures, reference, results_tables, saved_results

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text() for path in DOCS.glob("*.md")}
MEASUREMENTS = {"measured.md", "performance.md", "performance_log.md", "tables.md"}
"""Pages of figures, whose sentences and paragraphs are not limited."""
MEAN_WORDS, MOST_WORDS, MOST_NUMBERS = 22, 45, 4


@pytest.mark.parametrize("name", reference.MADE)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (reference.REFERENCE / name).read_text() == reference.MADE[name](), "python -m scripts.reference"


@pytest.mark.parametrize("name", pictures.MADE)
def test_pictures_are_what_draws_them(name: str) -> None:
    assert (pictures.PICTURES / name).read_text() == pictures.MADE[name](), "python -m scripts.pictures"


def test_tables_are_of_the_saved_results() -> None:
    assert results_tables.PAGE.read_text() == results_tables.page(), "python -m scripts.results_tables"


def test_every_saved_figure_is_in_the_tables() -> None:
    """Each JSON result has a row with its machine and commit."""
    page = results_tables.PAGE.read_text()
    for name, entry in saved_results.INDEX.items():
        assert not name.endswith(".json") or f"`{entry['commit'][:9]}`" in page, name
    log = set(re.findall(r"`([0-9a-f]{9})`", page))
    assert log == {entry["commit"][:9] for name, entry in saved_results.INDEX.items() if name.endswith(".json")}


def test_no_file_is_without_its_maker() -> None:
    assert {path.name for path in reference.REFERENCE.iterdir()} == set(reference.MADE)
    assert {path.name for path in pictures.PICTURES.iterdir()} == set(pictures.MADE)


def test_indexes_name_every_page() -> None:
    named = ["index"]
    for text in PAGES.values():
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.S | re.M):
            named += [line for line in block.split() if not line.startswith(":") and not line.isdigit()]
    there = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(there)


def paragraphs(page: str) -> list[str]:
    """Paragraphs and list items; code, tables, pictures and headings are none."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", page, flags=re.S | re.M)
    text = re.sub(r"^\s*(\||#|!\[).*$", "", text, flags=re.M)
    text = re.sub(r"^\s*(\* |\d+\. )", "\n", text, flags=re.M)
    return [re.sub(r"\]\([^)]*\)", "]", " ".join(part.split())) for part in text.split("\n\n") if part.strip()]


def lengths(page: str) -> list[int]:
    """Words of every sentence."""
    found = [one for part in paragraphs(page) for one in re.split(r"(?<=[.!?:;])\s+(?=[\"`*(\[A-Z])", part)]
    return [len(one.split()) for one in found if one]


def numbers(paragraph: str) -> int:
    """Numbers in a paragraph, those in code left out."""
    return len(re.findall(r"(?<![\w.,-])\d[\d,.]*", re.sub(r"`[^`]*`", "", paragraph)))


@pytest.mark.parametrize("name", sorted(set(PAGES) - MEASUREMENTS))
def test_sentences_are_short(name: str) -> None:
    words = lengths(PAGES[name])
    assert sum(words) <= MEAN_WORDS * len(words)
    assert max(words, default=0) <= MOST_WORDS


@pytest.mark.parametrize("name", sorted(set(PAGES) - MEASUREMENTS))
def test_paragraphs_have_few_numbers(name: str) -> None:
    many = [part for part in paragraphs(PAGES[name]) if numbers(part) > MOST_NUMBERS]
    assert many == []
