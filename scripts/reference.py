"""The pages of docs/reference/, made from the code: commands, settings, metrics, the layout's schema and the OpenAPI
document. `python -m scripts.generated` writes them."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client.metrics_core import Metric

from weft.base.options import Setting, settings_of, shown
from weft.base.settings import EngineConfig
from weft.base.weight_formats import Chosen, FormatSizes, chosen_by
from weft.cli.args.familiar import WORDS, FamiliarWord
from weft.cli.args.parser import CommandParser, Expert
from weft.cli.dispatch import COMMANDS
from weft.frontend.chat.config import chat_settings
from weft.frontend.server.fields.table import ApiName, FieldRow, paths_of, shape_of, written_rows
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.messages.requests import MessagesRequest
from weft.frontend.server.metrics.expert_metrics import expert_families
from weft.frontend.server.metrics.metrics import Metrics
from weft.frontend.server.openai.requests import ChatRequest, CompletionRequest, TokenizeChatRequest
from weft.frontend.server.operations import Operation
from weft.frontend.server.responses.requests import ResponsesRequest
from weft.frontend.server.routes import all_operations, whole_document
from weft.model.checkpoint.formats import PLAIN
from weft.model.checkpoint.forms.catalog import checkpoint_forms
from weft.parallel.arch.block import _RUN, BlockSpec
from weft.parallel.arch.families.registry import FAMILIES
from weft.parallel.layout.layout import layout_settings
from weft.parallel.layout.serialize import json_schema
from weft.runtime.launch_plan.hosts import HostsConfig
from weft.runtime.launch_plan.timeouts import process_settings

BODIES: Mapping[ApiName, type] = {
    "chat": ChatRequest, "completions": CompletionRequest, "tokenizer": TokenizeChatRequest,
    "responses": ResponsesRequest, "messages": MessagesRequest,
}  # fmt: skip
REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE_BY = "<!-- made by scripts/reference.py; `make docs` writes it -->\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    titles = list(head)
    cells: list[Iterable[str]] = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in each) + " |\n" for each in cells)


def code(words: Iterable[str]) -> str:
    """Each word as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def plain(words: str) -> str:
    """A help text as text of Markdown."""
    return words.replace("*", "\\*").replace("<", "\\<").replace("_", "\\_")


def commands() -> str:
    """Every option of every command."""
    return "\n".join([f"{MADE_BY}# Commands\n", *(command(each.name, each.summary) for each in COMMANDS)])


def command(name: str, summary: str) -> str:
    """The options of a command by group."""
    parser = CommandParser(prog=f"weft {name}")
    import_module(f"weft.cli.commands.{name.replace('-', '_')}").add_arguments(parser)
    parts = [f"## weft {name}\n\n{summary[0].upper()}{summary[1:]}.\n"]
    for group in parser._action_groups:
        rows = [option_row(parser, action) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows:
            parts.append(f"**{group.title}**\n\n" + table(("option", "meaning"), rows))
    return "\n".join(parts)


def option_row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    """Flags with their value, and the help."""
    value = "" if action.nargs == 0 else str(action.metavar or action.dest)
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    rare = " *(expert)*" if isinstance(action.help, Expert) else ""
    if not action.option_strings:
        return f"`{value}`", plain(text)
    value = f" `{value}`" if value and value != "==SUPPRESS==" else ""
    return code(action.option_strings) + value, plain(text) + rare


RECORDS: dict[str, tuple[str, tuple[Setting, ...]]] = {
    "Engine": ("Keyword arguments of `weft.LLM`, flags of most commands.", settings_of(EngineConfig)),
    "Layout": ("Fields of a layout document.", tuple(layout_settings())),
    "Server": ("Flags of `weft serve`.", settings_of(HttpConfig)),
    "Chat": ("Flags of `weft serve`.", chat_settings()),
    "Processes": ("Flags of commands that start ranks.", process_settings()),
    "Several hosts": ("Flags of `weft serve`, `generate`, `verify` and `bench`.", settings_of(HostsConfig)),
}
"""Heading -> what the settings are, and the settings."""


def settings() -> str:
    """All settings with flags, legal values and defaults."""
    parts = [f"{MADE_BY}# Settings\n"]
    for heading, (what, found) in RECORDS.items():
        rows = [(f"`{s.name}`", code(s.option.flags), plain(s.wanted), default(s), plain(s.option.help)) for s in found]
        head = ("setting", "flags", "legal values", "default", "meaning")
        parts.append(f"## {heading}\n\n{what}\n\n{table(head, rows)}")
    return "\n".join(parts)


def default(setting: Setting) -> str:
    """The default; empty where it is decided at start, or where there is none."""
    absent = setting.default is None or setting.default is MISSING
    return "" if absent else f"`{shown(setting.default)}`"


def metrics() -> str:
    """All families of /metrics."""
    nothing: Any = SimpleNamespace(loops=(), groups=1, ready=True, readiness=lambda: SimpleNamespace(ranks=()))
    registry = Metrics(nothing, "")._registry
    labels = {getattr(each, "_name", ""): getattr(each, "_labelnames", ()) for each in registry._collector_to_names}
    families = [*registry.collect(), *expert_families("", ())]
    rows = sorted(metric_row(family, labels) for family in families if not family.name.startswith("process_"))
    head = table(("metric", "kind", "labels", "meaning"), rows)
    return f"{MADE_BY}# Metrics\n\nWhat `GET /metrics` shows, beside Prometheus's own `process_` metrics.\n\n{head}"


def metric_row(family: Metric, labels: Mapping[str, tuple[str, ...]]) -> tuple[str, str, str, str]:
    """Name, kind, labels and help of a family; `labels`: of those that are counted where they happen."""
    names = getattr(family, "_labelnames", labels.get(family.name, ()))
    name = family.name + ("_total" if family.type == "counter" else "")
    return f"`{name}`", family.type, code(names), plain(family.documentation)


def checkpoints() -> str:
    """Every form that a model's files come in."""
    rows = [(form.name, form.outcome, form.meaning) for form in checkpoint_forms()]
    text = (
        "What `weft` does with the forms in which models are stored. *read as*: a line at start says what it means."
        " *refused*: one line says why, and the exit code is 65."
    )
    return f"{MADE_BY}# Forms of checkpoints\n\n{text}\n\n{table(('form', 'outcome', 'what it is'), rows)}"


def pretty(value: object) -> str:
    """JSON in the order of its making."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def familiar_options() -> str:
    """What weft says to options of other engines."""
    rows = [(code(word.names), ", ".join(word.engines), said_of(word)) for word in WORDS]
    head = (
        "What weft says to options of other engines on its own command line. Options that a command of weft has\n"
        "itself are not here. `--from ENGINE --` reads [whole commands](../translating.md) of an engine."
    )
    return f"{MADE_BY}# Options of other engines\n\n{head}\n\n{table(('option', 'engine', 'weft'), rows)}"


def flags_of(name: str) -> frozenset[str]:
    """All options of a command."""
    parser = CommandParser(prog=f"weft {name}")
    import_module(f"weft.cli.commands.{name.replace('-', '_')}").add_arguments(parser)
    return frozenset(parser.flags())


def said_of(word: FamiliarWord) -> str:
    """What weft does with another engine's option."""
    note = f"; {plain(word.says)}" if word.says else ""
    own = [each.name for each in COMMANDS if word.names[0] in flags_of(each.name)]
    if own:
        return f"an option of {code(own)} itself"
    if word.kind == "to":
        return f"the same as `{word.to}{' ' + word.value if word.value else ''}`{note}"
    return {"model": "the model", "taken": f"taken{note}", "refused": f"refused{note}"}[word.kind]


def routes(operations: Iterable[Operation]) -> str:
    """Every route, its access and what it does."""
    rows = [(f"`{each.method} {each.shown_path}`", each.access.value, each.says) for each in operations]
    head = (
        "*open*: everyone. *user*: clients with the API key, where one is set. *admin*: clients with the admin key,\n"
        "where one is set, else the API key. [Serving](../serving.md) has fields, limits and errors."
    )
    return f"{MADE_BY}# Routes\n\n{head}\n\n{table(('route', 'access', 'what it does'), rows)}"


def fields() -> str:
    """Every field of requests, by API."""
    rows = [
        *(
            FieldRow((api,), path, "heeded", "")
            for api, record in BODIES.items()
            for path in paths_of(shape_of(record))
        ),
        *written_rows(),
    ]
    apis: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        apis.setdefault((row.path, row.verdict, row.reason), []).extend(row.apis)
    shown = [
        (f"`{path}`", ", ".join(names), verdict, f"weft has no {reason}" if verdict == "refused" else reason)
        for (path, verdict, reason), names in sorted(apis.items())
    ]
    head = (
        "[Serving](../serving.md) and [other APIs](../apis.md) say what the heeded ones do. A field in no row is\n"
        "left out, and named in the header `x-weft-left-out`; `--strict-requests` refuses it. Null is never refused."
    )
    return f"{MADE_BY}# Fields of requests\n\n{head}\n\n{table(('field', 'APIs', 'verdict', 'why'), shown)}"


def models() -> str:
    """Families of models and formats of their weights."""
    families = [
        (
            f"`{name}`",
            code(family.architectures),
            code((form.architecture, *form.also)) if (form := family.gguf) else "",
        )
        for name, family in FAMILIES.items()
    ]
    blocks = chosen_by(Chosen.FILE)
    stored = [
        *((f"`{each.name}`", "safetensors, GGUF", "", f"{8 * each.nbytes}") for each in PLAIN),
        *(
            (f"`{name}`", "GGUF", "in its blocks, or unpacked" if each.kept else "unpacked", bits_of(each))
            for name, each in blocks.items()
        ),
    ]
    rounded = [
        (f"`{name}`", str(each.bits), f"{each.nbytes / each.numbers:.2f}")
        for name, each in chosen_by(Chosen.OPTION).items()
    ]
    return (
        f"{MADE_BY}# Models and formats of weights\n\n## Families\n\n"
        f"{table(('model_type', 'architectures', 'architecture in GGUF files'), families)}\n## What layers compute\n\n"
        "A family sets these values from its config.json. One that is not computed is refused by name.\n\n"
        f"{table(('value', 'computed', 'meaning'), layer_options())}\n## Formats of files\n\n"
        f"{table(('format', 'files', 'kept in memory', 'bits a weight in the file'), stored)}\n## `--quantization`\n\n"
        "Matrices are rounded when they are loaded. [Serving](../serving.md#weights-in-8-or-4-bits) says how.\n\n"
        f"{table(('value', 'bits of a number', 'bytes of a number, scales of blocks included'), rounded)}"
    )


def layer_options() -> Iterator[tuple[str, str, str]]:
    """Each value of a block: its name, what is computed of it, what it means."""
    (block,) = ast.parse(inspect.getsource(BlockSpec)).body
    assert isinstance(block, ast.ClassDef)
    for each, after in pairwise([*block.body, ast.Pass()]):
        if isinstance(each, ast.AnnAssign):
            name = ast.unparse(each.target)
            run = code(map(str, _RUN[name])) if name in _RUN else "every value"
            said = after.value if isinstance(after, ast.Expr) else None
            yield f"`{name}`", run, plain(" ".join(ast.literal_eval(said).split())) if said else ""


def bits_of(row: FormatSizes) -> str:
    """Bits of a weight, scales included."""
    return f"{8 * row.nbytes / row.numbers:.5g}"


MADE: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "settings.md": settings,
    "metrics.md": metrics,
    "checkpoints.md": checkpoints,
    "familiar_options.md": familiar_options,
    "routes.md": lambda: routes(all_operations()),
    "fields.md": fields,
    "models.md": models,
    "layout_schema.json": lambda: pretty(json_schema()),
    "openapi.json": lambda: pretty(json.loads(whole_document())),
}
"""File in REFERENCE -> what makes it."""
