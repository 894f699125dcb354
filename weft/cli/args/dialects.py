"""Options for another engine's command line: --from, --set, and the words after `--`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence

from weft.base.errors import UsageError
from weft.cli.args.parser import CommandParser, Expert
from weft.tools.dialects.names import names


def add_dialect_arguments(parser: argparse.ArgumentParser) -> None:
    """--from, --set and --nodes; the words after `--` become args.foreign."""
    group = parser.add_argument_group("other engines", "weft ... --from sglang -- python -m sglang.launch_server ...")
    group.add_argument(
        "--from", dest="dialect", metavar="DIALECT", help=f"engine whose command follows --: {', '.join(names())}"
    )
    group.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=Expert("value of a variable in those words (experts=N: the model's experts)"),
    )
    if isinstance(parser, CommandParser):
        parser.takes_foreign = True
    parser.set_defaults(foreign=None)


def take_foreign(args: argparse.Namespace, only: Collection[str] | None = None) -> None:
    """Reads the words after `--` into args: the model where none is given, layout values, and engine options.

    `only` names the engine options that the command has (None: all). Raises UsageError and ConfigError for what cannot
    be served, and for what contradicts weft's own options.
    """
    if args.foreign is None:
        if args.dialect is not None:
            raise UsageError(f"--from {args.dialect} needs the engine's words after --")
        if args.settings:
            raise UsageError(f"--set {args.settings[0]} is for another engine's words, and there are none after --")
        return
    if not args.foreign:
        raise UsageError("no words follow --")
    refuse_missing_file(args.foreign)
    # Imported here because most commands need no dialect, and dialects are many modules.
    from weft.cli.args.foreign import take

    take(args, only)


def refuse_missing_file(words: Sequence[str]) -> None:
    """UsageError: the only word names a file, and there is none."""
    word = words[0] if len(words) == 1 else ""
    looks_like_one = word.startswith(("/", "./", "../")) or word.endswith((".json", ".yaml", ".yml"))
    if looks_like_one and not any(letter.isspace() for letter in word) and not os.path.exists(word):
        raise UsageError(f"{word}: no such file")
