"""Engines started from Python: LLM(...), Engine(...), EngineArgs(...) as the words of the command that says the same.

Nothing is run: the text is parsed, and names that it does not assign stay open.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping

import yaml

from weft.dialects.base import Document, Where, Word
from weft.dialects.literals import expression, literal, plain

_CALL = re.compile(r"(?:\b(sgl|sglang|vllm|tensorrt_llm)\.)?\b(LLM|AsyncLLM|Engine|EngineArgs|AsyncEngineArgs)\(")
_CONFIG = re.compile(r"Config$")
"""Classes whose keywords are the fields of a config file: KvCacheConfig(free_gpu_memory_fraction=0.8)."""
_LONGEST = 20_000


def calls(text: str) -> list[Document]:
    """A document for every call that starts an engine, in order."""
    names = _assigned(text)
    found = [_document(text, match, names) for match in _CALL.finditer(text)]
    return [document for document in found if document is not None]


def _assigned(text: str) -> dict[str, object]:
    """Plain values that the text gives to names."""
    found: dict[str, object] = {}
    for match in re.finditer(r"(?m)^[ \t]*([A-Za-z_]\w*)[ \t]*=[ \t]*([^\s=][^\n]*)$", text):
        try:
            found[match[1]] = literal(match[2].partition("  #")[0])
        except ValueError:
            found.pop(match[1], None)
    return found


def _document(text: str, match: re.Match[str], names: Mapping[str, object]) -> Document | None:
    call = _parsed(text, match.end() - 1)
    dialect = _dialect(text, match)
    if call is None or not dialect:
        return None
    line = text.count("\n", 0, match.start()) + 1
    column = match.start() - (text.rfind("\n", 0, match.start()) + 1)
    if dialect == "trtllm":
        values = {word.arg: _value(word.value, names) for word in call.keywords if word.arg}
        shown = {name: _shown(value) for name, value in values.items()}
        return Document(kind="file", text=yaml.safe_dump(shown), line=line, dialect=dialect)
    place = Where(line, column + 1, match[0].rstrip("("))
    words = tuple(word for part in _parts(call) for word in _words(*part, names, line, column))
    return Document(
        kind="command", text=text, line=line, program=(Word(match[0].rstrip("("), place),), words=words, dialect=dialect
    )


def _parsed(text: str, start: int) -> ast.Call | None:
    """The call whose bracket opens at `start`; None when it does not end or is no Python."""
    depth, end = 0, 0
    for at in range(start, min(len(text), start + _LONGEST)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            end = at + 1
            break
    node = expression("f" + text[start:end].replace("...", "None")) if end else None
    return node if isinstance(node, ast.Call) else None


def _dialect(text: str, match: re.Match[str]) -> str:
    """Whose call it is: by its module, else by what the text imports."""
    if match[1]:
        return {"sgl": "sglang", "sglang": "sglang", "vllm": "vllm", "tensorrt_llm": "trtllm"}[match[1]]
    for module, dialect in (("tensorrt_llm", "trtllm"), ("sglang", "sglang"), ("vllm", "vllm")):
        if re.search(rf"(?m)^[ \t>]*(?:from|import)[ \t]+{module}\b", text):
            return dialect
    return ""


def _parts(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    yield from (("model", value) for value in call.args[:1])
    yield from ((word.arg, word.value) for word in call.keywords if word.arg)


def _value(node: ast.expr, names: Mapping[str, object]) -> object:
    """The plain value of an expression; the expression itself where it has none."""
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.Call) and node.keywords and not node.args and _CONFIG.search(ast.unparse(node.func)):
        values = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
        return {name: _shown(value) for name, value in values.items()}
    try:
        return plain(node)
    except ValueError:
        return node


def _shown(value: object) -> object:
    """For a YAML document: what is not plain stands for a variable."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return f"${ast.unparse(value)}" if isinstance(value, ast.expr) else json.loads(json.dumps(value, default=str))


def _words(name: str, node: ast.expr, names: Mapping[str, object], line: int, column: int) -> Iterator[Word]:
    value = _value(node, names)
    place = Where(line + node.lineno - 1, (column if node.lineno == 1 else 0) + node.col_offset + 1, name)
    flag = "--" + name.replace("_", "-")
    if value is None or (value is False and not name.startswith("enable_")):
        return
    if isinstance(value, bool):
        yield Word(flag if value else "--no-" + flag[2:], place)
        return
    yield Word(flag, place)
    if isinstance(value, ast.expr):
        yield Word("$" + ast.unparse(value), place, (ast.unparse(value),), quoted=True)
    elif isinstance(value, dict):
        yield Word(json.dumps(value, default=str), place, quoted=True)
    elif isinstance(value, (list, tuple)):
        yield from (Word(str(item), place, quoted=True) for item in value)
    else:
        yield Word(str(value), place, quoted=True)
