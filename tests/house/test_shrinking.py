"""Idioms, class names of several packages and large folders: no more than tests/house/allowed.toml still allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import prose, shrink

SLACK = 0.2
"""Share of a section's sum that may be out of date; run scripts/shrink.py where it is more."""


def test_nothing_grows_and_limits_follow() -> None:
    allowed = shrink.read(shrink.ALLOWED.read_text())
    for section, counts in shrink.counted().items():
        limits = allowed[section]
        grown = {name: (count, limits.get(name, 0)) for name, count in counts.items() if count > limits.get(name, 0)}
        assert grown == {}, "(found, allowed); scripts/shrink.py follows moves, and prints what grew"
        limit, now = sum(limits.values()), sum(counts.values())
        assert limit - now <= SLACK * limit, "run scripts/shrink.py"


@pytest.mark.parametrize(
    ("text", "idioms"),
    [
        ('"""Knows no rank. Whoever waits is told."""', ["Knows no", "Whoever", "told"]),
        ('def f():\n    """Runs by itself."""  # the one in hand', ["in hand", "by itself"]),
        ('LIMIT = 3\n"""Of rows behind these."""', ["behind"]),
        ('option(1, "cores that are lent", "--lend-cores")\nerror("nobody")', ["lent"]),
        ('add("--x", help=f"dealt {1} to ranks")', ["dealt"]),
        ('"""Put behind a proxy; `told` falls behind; deals with needs, handles by hand."""', []),
    ],
)
def test_idioms_of_python_are_found(text: str, idioms: list[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert sorted(prose.found(path)) == sorted(idioms)


def test_idioms_of_other_files_are_found(tmp_path: Path) -> None:
    header, page = tmp_path / "a.h", tmp_path / "a.md"
    header.write_text('// a guest\nint told = 1; /* needy\nrows */ char* s = "whoever";\n')
    page.write_text("Somebody, `nobody`\n```\nanybody\n```\nlatecomers\n")
    assert (prose.found(header), prose.found(page)) == (["guest", "needy"], ["Somebody", "latecomers"])


def repository(root: Path) -> Path:
    """Two packages that share a class name; one folder of 16 files and one of 15."""
    for package, files in (("one", 16), ("two", 14)):
        folder = root / "weft" / package
        folder.mkdir(parents=True)
        for number in range(files):
            (folder / f"m{number}.py").write_text("class _Private: ...\n")
        (folder / "__init__.py").write_text("")
        (folder / "m0.py").write_text(f"class Plan: ...\nclass Of{package}:\n    class Inner: ...\n")
    (root / "weft" / "two" / "more.h").write_text("// whoever\n")
    return root


def test_class_names_and_folders_are_counted(tmp_path: Path) -> None:
    root = repository(tmp_path)
    assert shrink.shared_class_names(root) == {"Plan": 2}
    assert shrink.large_folders(root) == {"weft/one": 16}
    assert shrink.idioms(root) == {"weft/two": 1}
