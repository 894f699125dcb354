"""The argument parser of the commands: no abbreviations, nearest name for an unknown option, errors as UsageError in
weft's words: the option, what was given, what is legal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from weft.base.errors import UsageError
from weft.base.options import nearest
from weft.base.plural import counted
from weft.cli.args.familiar import Rewriting

_WORDS = (
    ("expected one argument", "a value is missing"),
    ("expected at least one argument", "a value is missing"),
    ("ignored explicit argument", "takes no value, but has"),
    ("the following arguments are required:", "missing:"),
)
"""Beginnings of argparse's messages, and weft's words for them."""


class Expert(str):
    """Help of an option for experts: only `--help all` shows it."""


class CommandParser(argparse.ArgumentParser):
    """Options and positionals in any order; raises UsageError instead of exiting."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **settings)
        for kind, words in ((int, "a whole number"), (float, "a number")):
            self.register("type", kind, partial(_parsed, kind, words))
        self.add_argument(
            "-h", "--help", action=_Help, nargs="?", metavar="all", help="show the options, or all of them"
        )
        self.takes_foreign = False
        """Words after `--` are another program's: args.foreign."""
        self.said_of: Callable[[str], str | None] = lambda flag: None
        """A hint for an option of another program."""

    def parse_command(self, words: Sequence[str]) -> argparse.Namespace:
        """The namespace of a command's words; UsageError for anything that is not understood."""
        own, foreign = list(words), None
        if self.takes_foreign and "--" in own:
            cut = own.index("--")
            own, foreign = own[:cut], own[cut + 1 :]
        self.usage = self._short().replace("%", "%%")
        own = self._own_words(own)
        args, rest = self.parse_known_intermixed_args(own)
        for word in rest:
            if word.startswith("-") and word != "-":
                raise self._unknown(word.partition("=")[0])
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}")
        if self.takes_foreign:
            args.foreign = foreign
        return args

    def _own_words(self, words: Sequence[str]) -> list[str]:
        """The words with other engines' options as weft's own; a model that one of these names comes first."""
        valued = [flag for action in self._actions if action.nargs != 0 for flag in action.option_strings]
        rewriting = Rewriting(self.flags(), valued, lambda note: print(note, file=sys.stderr))
        own = rewriting.of(words)
        if rewriting.model is None:
            return own
        places = {action.dest for action in self._actions}
        if not places & {"model", "words"}:
            raise UsageError("no model is named here")
        if "words" in places and "/" not in rewriting.model and not Path(rewriting.model).exists():
            raise UsageError(f"--model {rewriting.model}: no such file or directory, and not a hub id (org/name)")
        return [rewriting.model, *own]

    def _unknown(self, name: str) -> UsageError:
        dashed = name.replace("_", "-")
        said = f"did you mean {dashed}?" if dashed in self.flags() else self.said_of(name)
        return UsageError(f"unknown option {name}" + (f"; {said}" if said else nearest(name, self.flags())))

    def format_help(self, *, every: bool = False) -> str:
        """The help: without options for experts, unless `every`."""
        hidden = [] if every else [(action, action.help) for action in self._actions if isinstance(action.help, Expert)]
        for action, _ in hidden:
            action.help = argparse.SUPPRESS
        self.usage = self.usage or self._short().replace("%", "%%")
        try:
            text = super().format_help()
        finally:
            for action, help in hidden:
                action.help = help
        more = f"\n{self.prog} --help all shows {counted(len(hidden), 'more option')}, for experts\n"
        return text + more if hidden else text

    def _short(self) -> str:
        """The usage in a line: options as a word, except those that must be given."""
        shown = [self.prog, "[options]"]
        for action in self._actions:
            name = str(action.metavar or action.dest)
            if action.required and action.option_strings:
                shown.append(f"{action.option_strings[0]} {name}")
            elif not action.option_strings:
                optional = action.nargs in ("?", "*") and not name.startswith("[")
                shown.append(f"[{name}]" if optional else name)
        return " ".join(shown)

    def flags(self) -> list[str]:
        """All option names, in order of declaration."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Called by argparse, with a message in its words, for words it cannot understand."""
        message = message.removeprefix("argument ")
        for theirs, ours in _WORDS:
            message = message.replace(theirs, ours)
        raise UsageError(message)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Called by argparse for every value."""
        if action.choices is not None and value not in action.choices:
            legal = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is not one of {legal}")


class _Help(argparse.Action):
    """Prints the help and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: Any, flag: str | None = None
    ) -> None:
        assert isinstance(parser, CommandParser)
        if values not in (None, "all"):
            raise argparse.ArgumentError(self, f"{values!r} is not all")
        print(parser.format_help(every=values == "all"), end="")
        parser.exit()


def _parsed(kind: Callable[[str], object], wanted: str, word: str) -> object:
    try:
        return kind(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not {wanted}") from None
