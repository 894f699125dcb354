"""docs/layouts.md and the files of layouts/ against the layout itself: fields, flags, examples, refusals, numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.pictures import SMALL_MODEL
from weft.base.errors import LayoutError
from weft.parallel.arch.families import parse_config
from weft.parallel.arch.fit import check_fit
from weft.parallel.layout.layout import layout_settings
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.serialize import load_given, to_dict
from weft.parallel.layout.splits import assign_heads
from weft.parallel.layout.support import refuse_unsupported

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "layouts.md").read_text()
FILES = sorted((ROOT / "layouts").glob("*.yaml"))


def blocks(kind: str) -> list[str]:
    """Fenced blocks of the page, and of the README, with this info string."""
    text = PAGE + (ROOT / "README.md").read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.S | re.M)


def rows_under(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its two head lines."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_field_and_flag_is_in_the_table() -> None:
    told = {row[0].strip("`"): set(re.findall(r"--[\w-]+", row[1])) for row in rows_under("Fields")}
    real = {
        setting.name: {*setting.option.flags, *(flag for flag, _ in setting.option.shorthand)}
        for setting in layout_settings()
    }
    assert told == real


def test_choices_are_told() -> None:
    told = {row[0].strip("`"): row[3] for row in rows_under("Fields")}
    for setting in layout_settings():
        assert all(f"`{choice}`" in told[setting.name] for choice in setting.option.choices), setting.name


@pytest.mark.parametrize("text", blocks("yaml"))
def test_examples_run(text: str) -> None:
    refuse_unsupported(resolve(load_given(text)))


@pytest.mark.parametrize("text", blocks("yaml refused"))
def test_refusals_are_as_quoted(text: str) -> None:
    expected = text.splitlines()[0].removeprefix("# ")
    with pytest.raises(LayoutError) as caught:
        refuse_unsupported(resolve(load_given(text)))
    assert str(caught.value) == expected


def test_there_are_examples() -> None:
    assert min(len(blocks("yaml")), len(blocks("yaml refused")), len(FILES)) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_layout_files_serve_the_small_model(path: Path) -> None:
    layout = resolve(load_given(path))
    refuse_unsupported(layout)
    check_fit(layout, parse_config(SMALL_MODEL))
    assert "world" in path.read_text(), "a file that states its world is checked against it"


def test_uneven_heads_are_dealt_as_told() -> None:
    for tp, queries, stored in rows_under("Uneven heads"):
        shares = assign_heads(9, 3, int(tp), "groups")
        assert [share.q[1] - share.q[0] for share in shares] == [int(word) for word in queries.split()]
        assert [share.kv[1] - share.kv[0] for share in shares] == [int(word) for word in stored.split()]


def test_fixed_defaults_are_as_told() -> None:
    defaults = to_dict(resolve({}, num_experts=8))
    for name, _, told, _ in rows_under("Fields"):
        value: object = defaults
        for part in name.strip("`").split("."):
            assert isinstance(value, dict)
            value = value[part]
        if told.strip("`").isalnum():
            assert told.strip("`") == ("null" if value is None else str(value)), name
