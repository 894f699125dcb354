"""Programs around engines: benchmarks and trainers that pass an engine its arguments, and launchers that pass none.

A launcher whose sizes stand somewhere else is refused with what to give instead.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from weft.base.data_files import read_toml
from weft.tools.dialects.base import Document, Where, Word

_CHARTS = (
    re.compile(r"\bhelm3?\s(?:[^\n|;&]*\s)?(?:install|upgrade|template)\s"),
    re.compile(r"\{\{[^}\n]*\.(?:Values|Chart|Release)\b"),
    re.compile(r"(?m)^[ \t]*(?:servingEngineSpec|apiVersion:[ \t]*v2[ \t]*$[^\0]*^[ \t]*type:[ \t]*application)\b"),
)
"""A helm command, a template of a chart, its values and its Chart.yaml."""
_CHART = "this is a Helm chart, its values, or a command that installs one: render it first, with helm template"
_OTHERS = re.compile(
    r"(?m)^[ \t]*(?:[$#][ \t]+)?(?:[A-Z_]+=\S+[ \t]+)*(?:sudo[ \t]+|nohup[ \t]+)?"
    r"(lmdeploy|text-generation-launcher|ollama|llama-server|llama-cli|xinference|mlc_llm|aphrodite|lightllm)[ \t]"
    r"|\b(text-generation-inference|lmdeploy|lightllm)(?=[:/.@])"
)
"""Commands and images of engines that have no reader."""
_ROWS = read_toml("weft.tools.dialects.sources", "unsupported_programs.toml", dict[str, tuple[dict[str, str], ...]])[
    "programs"
]
_COMPILED = tuple((re.compile(row["pattern"]), row["reason"]) for row in _ROWS)
_ENGINES = {"vllm": "vllm", "vllm-vlm": "vllm", "sglang": "sglang", "sglang-generate": "sglang"}
_TRAINERS = ("swift",)
_PAIRS = re.compile(r"(?:--?model[_-]args=)?((?:pretrained|model_name|model)=[^,\s]+(?:,\w+=[^,]*)*)")
_PAIR = re.compile(r"(\w+)=([^,]*)")


def unsupported_reason(text: str) -> str | None:
    """Why a text with no engine's command in it cannot be read, where a program that it names is known."""
    plain = re.sub(r"\\\n", " ", text)
    other = _OTHERS.search(plain)
    if other is not None:
        return f"{other[1] or other[2]} is of an engine whose commands are not read here"
    if any(each.search(plain) for each in _CHARTS):
        return _CHART
    return next((message for pattern, message in _COMPILED if pattern.search(plain)), None)


def harness(words: Sequence[Word]) -> Document | None:
    """The engine that a benchmark or a trainer starts: `--model vllm --model_args a=1,b=2`, `--infer_backend vllm`."""
    if words and words[0].text in _TRAINERS:
        return _trainer(words)
    dialect = next((_ENGINES[word.text] for word in words if word.text in _ENGINES), "")
    pairs = next(((word, match) for word in words if (match := _PAIRS.fullmatch(word.text))), None)
    if not dialect or pairs is None:
        return None
    word, match = pairs
    arguments = tuple(_arguments(word, match.start(1), match[1]))
    line = words[0].where.line
    return Document(kind="command", text="", line=line, program=tuple(words[:1]), words=arguments, dialect=dialect)


def _trainer(words: Sequence[Word]) -> Document | None:
    """`swift deploy --infer_backend vllm --vllm_tensor_parallel_size 4`: flags that begin with the engine's name."""
    backend = [after.text for word, after in itertools.pairwise(words) if word.text == "--infer_backend"]
    dialect = _ENGINES.get(backend[-1], "") if backend else ""
    if not dialect:
        return None
    arguments: list[Word] = []
    for word in words[1:]:
        if word.text.startswith("--"):
            name = word.text.removeprefix(f"--{dialect}_")
            ours = name != word.text or word.text.partition("=")[0] in ("--model", "--port", "--host")
            arguments += [replace(word, text=f"--{name.removeprefix('--')}")] if ours else []
        elif arguments and ours:
            arguments.append(word)
    return Document(
        kind="command",
        text="",
        line=words[0].where.line,
        program=tuple(words[:1]),
        words=tuple(arguments),
        dialect=dialect,
    )


def _arguments(word: Word, offset: int, pairs: str) -> Iterator[Word]:
    """`a=1,b=2` as flags, each at its place inside the word."""
    for match in _PAIR.finditer(pairs):
        name = "model" if match[1] in ("pretrained", "model_name") else match[1].replace("_", "-")
        place = Where(word.where.line, word.where.column + offset + match.start(), match[0])
        on = match[2].lower()
        if on in ("true", "false"):
            yield Word(f"--{name}" if on == "true" else f"--no-{name}", place)
            continue
        yield Word(f"--{name}", place)
        yield Word(match[2], place, word.variables if "$" in match[2] else (), quoted=True)
