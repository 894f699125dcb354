"""`weft translate`: another engine's command or file as a layout, or as a third engine's words. Needs no torch.

The dialect is recognized where --from is left out. Exit code 1: the engine would refuse this, or the one of --to would.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from weft.base.errors import CheckpointError, ConfigError, UsageError
from weft.base.options import check_range
from weft.cli.args.dialects import add_dialect_arguments
from weft.cli.args.foreign import context_of, readings_of, with_unused
from weft.cli.args.foreign_words import experts_in, said_of_words
from weft.cli.view.console import PipedConsole
from weft.parallel.layout.serialize import to_yaml
from weft.tools.dialects.base import Context, Diagnostic, Reading, Written
from weft.tools.dialects.names import names
from weft.tools.dialects.registry import dialect, read, read_words, write
from weft.tools.dialects.report import document, json_schema

REFUSED = 1
_STYLE = {"error": "bold red", "warning": "yellow", "info": "dim"}
_MOST = 10 << 20
_SHOWN = 72


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, -, or words after `--`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="a file with the command or configuration; -: stdin")
    add_dialect_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--to", metavar="DIALECT", help=f"write it in these words: {', '.join(names())}, or layout for weft's own"
    )
    group.add_argument("--json", action="store_true", help="print JSON, with the schema that --schema prints")
    group.add_argument("--schema", action="store_true", help="print the JSON schema of --json and end")
    group.add_argument("--strict", action="store_true", help="unknown words are errors")
    group.add_argument("--nodes", type=int, metavar="N", help="nodes that the ranks are spread over")
    group.add_argument("--model-config", metavar="FILE", help="the model's config.json, for its number of experts")


def run(args: argparse.Namespace) -> int:
    """0, or 1 for what an engine would refuse; errors are raised."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    target = _target(args.to)
    if args.nodes is not None:
        check_range("--nodes", args.nodes, 1)
    readings = readings_of(args, _read(args))
    written = {name: _write(reading, target) for name, reading in readings.items()} if target else None
    if args.json:
        print(json.dumps(document(readings, _found(written) if target else None), indent=2))
    else:
        _print(readings, written)
    for note in said_of_words([getattr(args, "text", ""), *(args.foreign or ())]):
        print(f"note: {note}", file=sys.stderr)
    impossible = [note for each in _found(written).values() for note in each.notes if note.level == "error"]
    return REFUSED if impossible or any(reading.refused for reading in readings.values()) else 0


def _target(word: str | None) -> str | None:
    return word if word in (None, "layout") else dialect(word).name


def _read(args: argparse.Namespace) -> list[Reading]:
    experts = None
    if args.model_config is not None:
        experts = experts_in(args.model_config)
        if experts is None:
            raise CheckpointError(f"{args.model_config}: not a model's config.json")
    context = context_of(args, experts)
    readings = _read_with(args, context)
    model = next((str(each.options["model"]) for each in readings if each.options.get("model")), "")
    if experts is None and model:
        beside = experts_in(model)
        if beside is not None:
            return _read_with(args, context_of(args, beside))
    return readings


def _read_with(args: argparse.Namespace, context: Context) -> list[Reading]:
    if args.foreign is not None:
        if args.file is not None:
            raise UsageError(f"both a file ({args.file}) and words after --; give one of them")
        if not args.foreign:
            raise UsageError("no words follow --")
        return with_unused(read_words(args.foreign, args.dialect, context), context)
    if not hasattr(args, "text"):
        args.text = _text(args.file)
    return with_unused(read(args.text, args.dialect, context), context)


def _text(name: str | None) -> str:
    if name is None and sys.stdin.isatty():
        raise UsageError("nothing to translate: give a FILE, - for stdin, or the engine's words after --")
    try:
        data = sys.stdin.buffer.read(_MOST + 1) if name in (None, "-") else Path(str(name)).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}", field="FILE", value=name) from None
    if len(data) > _MOST:
        raise ConfigError(f"{name}: larger than {_MOST >> 20} MiB", field="FILE", value=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name or 'stdin'}: not UTF-8 text (byte {error.start})", field="FILE", value=name) from None
    if not text.strip():
        raise UsageError(f"{name or 'stdin'}: nothing in it to translate")
    return text


def _write(reading: Reading, target: str) -> Written | None:
    """The reading in the target's words; None where it was refused. ConfigError while sizes are open."""
    if reading.refused is not None:
        return None
    if target == "layout":
        return Written(_layout_yaml(reading))
    if reading.layout is None:
        names = ", ".join(reading.sizes.open) if reading.sizes else "every size"
        given = (
            " ".join(f"--set {shlex.quote(f'{name}=...')}" for name in reading.variables)
            or "--set experts=N or --model-config FILE"
        )
        raise ConfigError(f"{names}: open, so nothing can be written in other words; give {given}", field="--set")
    known = {"num_experts": reading.experts} if reading.experts else {}
    return write(reading.layout, target, {**reading.options, **known}, reading.dialect)


def _found(written: Mapping[str, Written | None] | None) -> dict[str, Written]:
    return {name: each for name, each in (written or {}).items() if each is not None}


def _layout_yaml(reading: Reading) -> str:
    if reading.layout is not None:
        return to_yaml(reading.layout)
    lines = []
    for section, value in (reading.layout_document() or {}).items():
        flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("...\n")
        lines.append(f"{section}: {flow.strip()}\n")
    return "".join(lines)


def _print(readings: Mapping[str, Reading], written: Mapping[str, Written | None] | None) -> None:
    """Written text alone goes to stdout, so that it can be piped; everything about it to stderr."""
    console = PipedConsole(highlight=False, soft_wrap=True)
    side = Console(stderr=True, highlight=False, soft_wrap=True) if written is not None else console
    for name, reading in readings.items():
        if len(readings) > 1:
            side.print(Text(f"== {name}", style="bold"))
        if written is None:
            _print_reading(console, reading)
        else:
            _print_notes(side, reading)
            text = written[name]
            if text is not None:
                console.print(Text(text.text.rstrip("\n")))
                _list_notes(side, "notes on the writing", text.notes)


def _print_reading(console: Console, reading: Reading) -> None:
    title = dialect(reading.dialect).title
    if reading.refused is None and reading.sizes is not None:
        console.print(Text(f"{title}, world {reading.sizes.world or 'open'}:", style="bold"))
        console.print(Text(_indented(_layout_yaml(reading))))
    if reading.options:
        console.print(Text("options:", style="bold"))
        for name, value in reading.options.items():
            shown = json.dumps(value) if not isinstance(value, str) else value
            console.print(Text(f"  {name}: {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}"))
    _print_notes(console, reading)


def _print_notes(console: Console, reading: Reading) -> None:
    refused = reading.refused
    notes = [note for note in reading.notes if refused is None or note.message != refused.message]
    _list_notes(console, "notes", notes)
    if refused is not None:
        listed = ", ".join(map(str, refused.legal)) if "legal" not in refused.message else ""
        legal = f" (legal: {listed})" if listed else ""
        placed = refused.where is None or str(refused.where) in refused.message
        place = "" if placed else f"{refused.where}: "
        console.print(Text(f"{dialect(reading.dialect).title} would refuse this: ", style="bold red"), end="")
        console.print(Text(f"{place}{refused.message}{legal}"))


def _list_notes(console: Console, title: str, notes: Iterable[Diagnostic]) -> None:
    order = {"error": 0, "warning": 1, "info": 2}
    listed = sorted(notes, key=lambda note: order[note.level])
    if listed:
        console.print(Text(f"{title}:", style="bold"))
    for note in listed:
        place = f"{note.where}: " if note.where else ""
        line = Text("  ")
        line.append(f"{note.level}  ", style=_STYLE[note.level])
        line.append(f"{place}{note.message}")
        console.print(line)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip("\n").splitlines())
