"""Engines started from Python: LLM(...), Engine(...), EngineArgs(...) as the words of the command that says the same.

Nothing is run: the text is parsed, and names that it does not assign stay open.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping

import yaml

from weft.tools.dialects.base import Document, Where, Word
from weft.tools.dialects.sources.literals import expression, plain

_CALL = re.compile(
    r"(?:\b(sgl|sglang|vllm|tensorrt_llm)\.)?\b"
    r"(LLM|AsyncLLM|Engine|Runtime|ServerArgs|EngineArgs|AsyncEngineArgs|LLMConfig|vLLMEngineProcessorConfig)\("
)
_CONFIG = re.compile(r"(?:Config|^dict)$")
"""Classes whose keywords are the fields of a config file: KvCacheConfig(free_gpu_memory_fraction=0.8)."""
_WRAPPED = ("LLMConfig", "vLLMEngineProcessorConfig")
"""Classes of a framework around an engine, whose `engine_kwargs` are the engine's arguments."""
_OWN = {"ServerArgs": "sglang", "EngineArgs": "vllm", "AsyncEngineArgs": "vllm"}
"""Classes that only one engine has."""
_ASSIGNED = re.compile(r"(?m)^[ \t]*([A-Za-z_]\w*)[ \t]*=[ \t]*(?![\s=])")
_LOGGED = re.compile(r"non-default args: (?=\{)")
_LONGEST = 20_000


def calls(text: str) -> list[Document]:
    """A document for every call that starts an engine, in order."""
    names = _assigned(text)
    found = [_document(text, match, names) for match in _CALL.finditer(text)]
    return [document for document in found if document is not None] or [*_logged(text)]


def _logged(text: str) -> Iterator[Document]:
    """The arguments that vLLM shows as it starts."""
    for match in _LOGGED.finditer(text):
        node = _parsed(text, match.end(), "")
        value = _value(node, {}) if node is not None else None
        if not isinstance(value, dict) or not value:
            continue
        line, column = text.count("\n", 0, match.start()) + 1, match.end() - (text.rfind("\n", 0, match.start()) + 1)
        place = Where(line, column + 1, match[0])
        parts = [(str(name), part) for name, part in value.items() if name != "model_tag"]
        words = tuple(word for part in parts for word in _words(*part, {}, line, column))
        yield Document(
            kind="command", text=text, line=line, program=(Word(match[0], place),), words=words, dialect="vllm"
        )


def _assigned(text: str) -> dict[str, object]:
    """Plain values that the text gives to names: literals, and calls of classes that hold settings."""
    found: dict[str, object] = {}
    for match in _ASSIGNED.finditer(text):
        line = text[match.end() :].partition("\n")[0].partition("  #")[0]
        if line.rstrip().endswith(","):
            continue  # an argument of a call, on a line of its own
        opening = re.match(r"[\w.]*(?:Config|dict)\(|\{", line)
        node = _parsed(text, match.end() + opening.end() - 1, opening[0][:-1]) if opening else expression(line)
        value = _value(node, found) if node is not None else None
        if node is None:
            continue
        found.pop(match[1], None)
        if not isinstance(value, ast.expr):
            found[match[1]] = value
    return found


def _document(text: str, match: re.Match[str], names: Mapping[str, object]) -> Document | None:
    call = _parsed(text, match.end() - 1, "f")
    dialect = _dialect(text, match)
    if not isinstance(call, ast.Call) or not dialect:
        return None
    line = text.count("\n", 0, match.start()) + 1
    column = match.start() - (text.rfind("\n", 0, match.start()) + 1)
    if dialect == "trtllm":
        shown = {name: _shown(_valued(part, names)) for name, part in _parts(call, names)}
        return Document(kind="file", text=yaml.safe_dump(shown), line=line, dialect=dialect)
    place = Where(line, column + 1, match[0].rstrip("("))
    parts = list(_parts(call, names))
    if match[2] in _WRAPPED:
        parts = list(_unwrapped(dict(parts), names))
    words = tuple(word for part in parts for word in _words(*part, names, line, column))
    return Document(
        kind="command", text=text, line=line, program=(Word(match[0].rstrip("("), place),), words=words, dialect=dialect
    )


def _parsed(text: str, start: int, name: str) -> ast.expr | None:
    """What `name` and the bracket that opens at `start` are; None when it does not end or is no Python."""
    depth, end = 0, 0
    for at in range(start, min(len(text), start + _LONGEST)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text[at], 0)
        if depth == 0:
            end = at + 1
            break
    return expression(name + text[start:end].replace("...", "None")) if end else None


def _dialect(text: str, match: re.Match[str]) -> str:
    """Whose call it is: by its module, else by what the text imports."""
    if match[1]:
        return {"sgl": "sglang", "sglang": "sglang", "vllm": "vllm", "tensorrt_llm": "trtllm"}[match[1]]
    if match[2] in _WRAPPED:
        return "vllm"
    if match[2] in _OWN:
        return _OWN[match[2]]
    for module, dialect in (("tensorrt_llm", "trtllm"), ("sglang", "sglang"), ("vllm", "vllm")):
        if re.search(rf"(?m)^[ \t>]*(?:from|import)[ \t]+{module}\b", text):
            return dialect
    return ""


def _parts(call: ast.Call, names: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Names and values of a call's arguments; those that `**name` unpacks are values already."""
    yield from (("model", value) for value in call.args[:1])
    for word in call.keywords:
        if word.arg:
            yield word.arg, word.value
            continue
        unpacked = _value(word.value, names)
        yield from unpacked.items() if isinstance(unpacked, dict) else ()


def _unwrapped(parts: Mapping[str, object], names: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The engine's arguments out of a framework's: its model and engine_kwargs."""
    values = {name: _valued(part, names) for name, part in parts.items()}
    loading = values.get("model_loading_config")
    inner = loading if isinstance(loading, dict) else values
    model = inner.get("model_source") or inner.get("model_id")
    if model is not None:
        yield "model", model
    arguments = values.get("engine_kwargs")
    yield from arguments.items() if isinstance(arguments, dict) else ()


def _valued(part: object, names: Mapping[str, object]) -> object:
    return _value(part, names) if isinstance(part, ast.expr) else part


def _value(node: ast.expr, names: Mapping[str, object]) -> object:
    """The plain value of an expression; the expression itself where it has none."""
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    inner = _fields(node)
    if inner is not None:
        values = {name: _value(value, names) for name, value in inner.items()}
        return {name: value if isinstance(value, dict) else _shown(value) for name, value in values.items()}
    try:
        return plain(node)
    except ValueError:
        return node


def _fields(node: ast.expr) -> dict[str, ast.expr] | None:
    """Names and values of a mapping, or of a call that makes settings; None for anything else."""
    if isinstance(node, ast.Call) and node.keywords and not node.args and _CONFIG.search(ast.unparse(node.func)):
        return {word.arg: word.value for word in node.keywords if word.arg}
    if not isinstance(node, ast.Dict):
        return None
    items = zip(node.keys, node.values, strict=True)
    named = {str(key.value): value for key, value in items if isinstance(key, ast.Constant)}
    return named if len(named) == len(node.keys) else None


def _shown(value: object) -> object:
    """For a YAML document: what is not plain stands for a variable."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return f"${ast.unparse(value)}" if isinstance(value, ast.expr) else json.loads(json.dumps(value, default=str))


def _words(name: str, part: object, names: Mapping[str, object], line: int, column: int) -> Iterator[Word]:
    value, place = _valued(part, names), Where(line, column + 1, name)
    if isinstance(part, ast.expr):
        place = Where(line + part.lineno - 1, (column if part.lineno == 1 else 0) + part.col_offset + 1, name)
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
        text = str(value)
        yield Word(text, place, (text[1:],) if text.startswith("$") else (), quoted=True)
