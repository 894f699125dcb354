"""What the commands of this folder share: numbers and files that are checked before anything is measured, and one line
for a mistake on the command line."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from weft.base.errors import WeftError


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


def even(text: str) -> int:
    """The type of an option that counts what is done by turns in one order and in the other."""
    found = at_least(2)(text)
    if found % 2:
        raise argparse.ArgumentTypeError(f"{text}: an even number, so that each is first equally often; {found + 1}?")
    return found


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


def save_part(path: Path, name: str, part: Mapping[str, object]) -> None:
    """Writes one part of a JSON result; other parts stay as they are."""
    parts = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**parts, name: part}, indent=1) + "\n")


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and ends the process: what cannot be done is a line on stderr, and the error's exit code; so is
    Ctrl-C. SIGTERM and SIGHUP let it end what it has started, too; a second one does not."""
    try:
        with _ended_in_order():
            sys.exit(main())
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except _Signalled as signalled:
        _leave(signalled.number.name, 128 + signalled.number)
    except WeftError as error:
        _leave(str(error), error.exit_code)


class _Signalled(BaseException):
    """To end, by a signal."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """The first SIGTERM or SIGHUP raises `_Signalled`, so that whatever was started is ended on the way out."""
    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]

    def put_back() -> None:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

    def tell(number: int, _: object) -> NoReturn:
        put_back()
        raise _Signalled(signal.Signals(number))

    for number in taken:  # a handler that is not the default is kept, as nohup sets one
        signal.signal(number, tell)
    try:
        yield
    finally:
        put_back()


def _leave(word: str, code: int) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {word}", file=sys.stderr)
    sys.exit(code)
