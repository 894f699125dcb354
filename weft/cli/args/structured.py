"""Options that say what an answer is to be."""

from __future__ import annotations

import argparse
from pathlib import Path

from weft.base.errors import UsageError
from weft.base.step.structured_outputs import StructuredOutputs
from weft.cli.args.parser import Expert


def add_structured_flags(parser: argparse.ArgumentParser) -> None:
    """At most one of them can be given."""
    group = parser.add_argument_group("structured output").add_mutually_exclusive_group()
    schema = Expert("the answer is JSON of the schema in this file")
    grammar = Expert("the answer keeps to the grammar in this file: Lark or GBNF")
    choice = Expert("a text that the answer may be (repeatable)")
    group.add_argument("--json-schema", metavar="FILE", help=schema)
    group.add_argument("--regex", metavar="TEXT", help=Expert("the whole answer matches this regular expression"))
    group.add_argument("--choice", action="append", metavar="TEXT", help=choice)
    group.add_argument("--grammar", metavar="FILE", help=grammar)


def structured_from(args: argparse.Namespace) -> StructuredOutputs | None:
    """What the answer is to be. UsageError: a file that cannot be read."""
    if args.json_schema is not None:
        return StructuredOutputs(json=_file_text("--json-schema", args.json_schema))
    if args.grammar is not None:
        return StructuredOutputs(grammar=_file_text("--grammar", args.grammar))
    if args.regex is None and args.choice is None:
        return None
    return StructuredOutputs(regex=args.regex, choice=args.choice)


def _file_text(flag: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{flag} {path}: {error.strerror if isinstance(error, OSError) else error}") from error
