"""Documents that the code writes: docs/reference, docs/pictures and docs/tables.md.

`python -m scripts.generated` writes them, prints what changed, and exits with 1 where something did; with `--write` it
exits with 0."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts import pictures, reference, results_tables

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {reference.REFERENCE: reference.MADE, pictures.PICTURES: pictures.MADE}
MOST_LINES = 100


def documents() -> Iterator[tuple[Path, str]]:
    """Each file and its text."""
    yield from ((folder / name, make()) for folder, made in FOLDERS.items() for name, make in made.items())
    yield results_tables.PAGE, results_tables.page()


def written(path: Path, text: str) -> list[str]:
    """Writes one file; the lines of a unified diff against what it held."""
    before = path.read_text() if path.exists() else ""
    if before != text:
        path.write_text(text)
    name = str(path.relative_to(ROOT))
    return list(difflib.unified_diff(before.splitlines(), text.splitlines(), name, f"{name} (new)", lineterm=""))


def main(words: list[str]) -> int:
    """Writes all files."""
    changed = [lines for path, text in documents() if (lines := written(path, text))]
    orphans = [path for folder, made in FOLDERS.items() for path in folder.iterdir() if path.name not in made]
    for lines in changed:
        print("\n".join(lines[:MOST_LINES]))
    for path in orphans:
        print(f"{path.relative_to(ROOT)}: no script writes this file; delete it")
    if changed or orphans:
        print("Generated documents were out of date, and are written anew. Look at the difference, and commit it.")
    return 1 if (changed or orphans) and "--write" not in words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
