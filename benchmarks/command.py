"""What the commands of this folder share: numbers and files that are checked before anything is measured, and one line
for the mistake of a person who types. Knows no benchmark."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from weft.errors import WeftError


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` on."""

    def number(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = least - 1
        if found < least:
            raise argparse.ArgumentTypeError(f"{text}: a whole number, {least} or more")
        return found

    return number


whole = at_least(1)


def positive(text: str) -> float:
    """The type of an option that takes numbers above zero."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a number above 0")
    return found


def result_file(text: str) -> Path:
    """The type of an option for a file to write: where it is to lie must be there before hours are spent."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no directory {path.parent}, or it is a directory itself")
    return path


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and ends the process: what cannot be done is a line on stderr, and the error's exit code; so is
    Ctrl-C. SIGTERM and SIGHUP let it end what it has started, too; a second one does not."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else somebody wants it otherwise, as nohup does
            signal.signal(number, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except WeftError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    print(f"{Path(sys.argv[0]).name}: {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)
