"""Prose of this repository (docstrings, comments, help texts, documents) and the idioms in it, counted per package."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

IDIOMS = (
    r"\bwho(ever|mever|m)?\b",
    r"\b(some|no|any|every)body('s)?\b",
    r"\bin (the |its |their |one's )?hand\b",
    r"\b(for|from) nothing\b",
    r"\b(deals?|dealt|dealing)\b(?! with)",
    r"\b(tells?|told|telling)\b",
    r"\b(newcomer|latecomer|guest|stranger)s?\b",
    r"\bneed(y|iest)\b",
    r"\b(lends?|lent|lending)\b",
    r"(?<!fall )(?<!falls )(?<!lag )(?<!lags )\bbehind\b(?! (an? |the )?(\w+ )?(proxy|balancer|flag|firewall))",
    r"\bby (it|them|him)sel(f|ves)\b",
    r"\bof (its|their|his) own accord\b",
    r"\bknows? (no|nothing|neither|nobody|none)\b",
    r"\bthe one (in front|ahead|beside)\b",
)
"""Words and phrases that a reader with English as a second language does not know as terms of the field. Say instead:
the thread that ..., a rank that ..., current, unused, assign or partition, report or send, new request, needs a block,
steal (work of another rank), after, alone or automatically."""
IDIOM = re.compile("|".join(IDIOMS), re.IGNORECASE)

HELP = {"help", "description", "epilog"}
DOCUMENTS = ("*.md", "docs/*.md")
CPP = {".h", ".cpp"}


def texts(node: ast.expr) -> Iterator[str]:
    """The constant parts of a string expression."""
    yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def python_prose(text: str) -> Iterator[str]:
    """Docstrings (of constants and fields too), comments and help texts of one Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from texts(node.value)
        elif isinstance(node, ast.Call):
            is_option = isinstance(node.func, ast.Name) and node.func.id == "option"
            for value in (*(word.value for word in node.keywords if word.arg in HELP), *node.args[1 : 1 + is_option]):
                yield from texts(value)


def cpp_prose(text: str) -> Iterator[str]:
    """Comments of one C++ file."""
    yield from (match[1] or match[2] or "" for match in re.finditer(r"//([^\n]*)|/\*(.*?)\*/", text, re.DOTALL))


def document_prose(text: str) -> Iterator[str]:
    """A document without its blocks of code."""
    yield re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def prose(path: Path) -> str:
    """The prose of one file, without names in backticks."""
    return _prose(path.read_text(), path.suffix)


@cache
def _prose(text: str, suffix: str) -> str:
    parts = {".py": python_prose, ".md": document_prose}.get(suffix, cpp_prose)(text)
    return re.sub(r"`[^`]*`", " ", "\n".join(parts))


def files(folder: Path) -> list[Path]:
    """Python and C++ files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in {".py", *CPP} and "_build" not in path.parts)


def packages(root: Path) -> dict[str, list[Path]]:
    """Files with prose by package of weft; modules right under weft, scripts, benchmarks, tests and docs: one each."""
    found = {"weft/*.py": sorted((root / "weft").glob("*.py"))}
    found |= {f"weft/{path.name}": files(path) for path in sorted((root / "weft").iterdir()) if path.is_dir()}
    found |= {name: files(root / name) for name in ("scripts", "benchmarks", "tests")}
    found["docs"] = [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]
    return {name: paths for name, paths in found.items() if paths}


def found(path: Path) -> list[str]:
    """The idioms of one file, as they stand there."""
    if path.name == Path(__file__).name:
        return []
    return [match[0] for match in IDIOM.finditer(prose(path))]


def words(path: Path) -> int:
    """Words of one file's prose."""
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", prose(path)))
