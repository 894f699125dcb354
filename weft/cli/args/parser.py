"""The argument parser of the commands: no abbreviations, nearest name for an unknown option, errors as UsageError in
weft's words: the option, what was given, what is legal.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from weft.errors import UsageError
from weft.options import nearest

_WORDS = (
    ("expected one argument", "a value is missing"),
    ("expected at least one argument", "a value is missing"),
    ("ignored explicit argument", "takes no value, but has"),
    ("the following arguments are required:", "missing:"),
)
"""Beginnings of argparse's messages, and weft's words for them."""


class CommandParser(argparse.ArgumentParser):
    """Options and positionals in any order; raises UsageError instead of exiting."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        for kind, words in ((int, "a whole number"), (float, "a number")):
            self.register("type", kind, partial(_parsed, kind, words))
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
        args, rest = self.parse_known_intermixed_args(own)
        for word in rest:
            if word.startswith("-") and word != "-":
                name = word.partition("=")[0]
                said = self.said_of(name)
                raise UsageError(f"unknown option {name}" + (f"; {said}" if said else nearest(name, self.flags())))
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}")
        if self.takes_foreign:
            args.foreign = foreign
        return args

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


def _parsed(kind: Callable[[str], object], wanted: str, word: str) -> object:
    try:
        return kind(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not {wanted}") from None
