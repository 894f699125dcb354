"""Lines of code of each wing, and the sums of weft and its tests against scripts/size_budget.toml; exit 1 above it.

A line of code holds something besides a comment or a docstring; a generated file has none. Raising a budget
is a decision: edit the file.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
GENERATED = "Do not edit: written by"
"""In the first line of a file that a program writes."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_lines(tree: ast.Module) -> set[int]:
    """Line numbers of every docstring."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def python_lines(text: str) -> int:
    """Lines of code of one Python file."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(text)))


def cpp_lines(text: str) -> int:
    """Lines of a C++ file that are neither blank nor a // comment."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))


def count(path: Path) -> int:
    """Lines of code of one file."""
    text = path.read_text()
    if GENERATED in text.split("\n", 1)[0]:
        return 0
    return python_lines(text) if path.suffix == ".py" else cpp_lines(text)


def sources(folder: Path) -> list[Path]:
    """Source files below a folder, or the file itself."""
    if folder.is_file():
        return [folder]
    return sorted(path for suffix in ("*.py", "*.cpp", "*.h") for path in folder.rglob(suffix))


def parts() -> dict[str, list[Path]]:
    """Files by wing of weft; the modules right under weft are one entry, scripts, benchmarks and tests one each."""
    weft = ROOT / "weft"
    found = {"weft/*.py": sorted(weft.glob("*.py"))}
    found |= {f"weft/{path.name}": sources(path) for path in sorted(weft.iterdir()) if (path / "__init__.py").exists()}
    return found | {name: sources(ROOT / name) for name in ("scripts", "benchmarks", "tests")}


def main() -> int:
    """Prints the table."""
    budget: dict[str, int] = tomllib.loads((ROOT / "scripts" / "size_budget.toml").read_text())["lines"]
    lines = {name: sum(map(count, files)) for name, files in parts().items()}
    for name, files in parts().items():
        print(f"{name:<18} {len(files):>5} files {lines[name]:>6} lines")
    sums = {"weft": sum(each for name, each in lines.items() if name.startswith("weft")), "tests": lines["tests"]}
    for name, total in sums.items():
        print(f"{name + ' in all':<18} {total:>18} lines of {budget[name]}{'  ABOVE' if total > budget[name] else ''}")
    return 1 if any(total > budget[name] for name, total in sums.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
