"""Options for other engines' words: --from, --set, and what stands behind `--`. Knows no dialect."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from weft.cli.args.parser import CommandParser
from weft.dialects.names import names
from weft.errors import UsageError


def add_dialect_arguments(parser: argparse.ArgumentParser) -> None:
    """--from, --set and --nodes; the words behind `--` become args.foreign."""
    group = parser.add_argument_group("other engines", "weft ... --from sglang -- python -m sglang.launch_server ...")
    group.add_argument("--from", dest="dialect", metavar="DIALECT", help=f"whose words follow: {', '.join(names())}")
    group.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a variable that the words depend on (experts=N: the model's experts)",
    )
    if isinstance(parser, CommandParser):
        parser.takes_foreign = True
    parser.set_defaults(foreign=None)


def take_foreign(args: argparse.Namespace, only: Collection[str] | None = None) -> None:
    """Reads the words behind `--` into args: the model where none is given, layout values, and engine options.

    `only` names the engine options that the command has (None: all). Raises UsageError and ConfigError for what cannot
    be served, and for what contradicts weft's own options.
    """
    if args.foreign is None:
        if args.dialect is not None:
            raise UsageError(f"--from {args.dialect} needs the engine's words behind --")
        if args.settings:
            raise UsageError(f"--set {args.settings[0]} is for another engine's words, and none stand behind --")
        return
    if not args.foreign:
        raise UsageError("no words follow --")
    # Here and not at the top: most commands are weft's own, and dialects are many modules.
    from weft.cli.args.foreign import take

    take(args, only)
