"""The table of commands: runs one, and turns every error into one message and an exit code. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from weft.base import env
from weft.base.errors import UsageError, WeftError
from weft.base.machine import task_limits
from weft.base.machine.memory_trim import not_collected
from weft.base.options import nearest
from weft.base.printable import printable_lines
from weft.cli import addresses
from weft.cli.args.parser import CommandParser
from weft.cli.removed_flags import refuse_removed_flags
from weft.cli.single_start import refuse_several_starts
from weft.frontend.server.http.signals import EndSignals, Stopped
from weft.runtime.supervisor.processes import Spawner


@dataclass(frozen=True, slots=True)
class CliCommand:
    """A command lives in weft/cli/commands/<name>.py (a dash is an underscore there), with `add_arguments(parser)` and
    `run(args) -> exit code`. `starts_ranks`: `args.spawner` has started the first rank's process already.
    `addresses`: MiB of address space that importing its modules needs. `once`: refused where torchrun starts it several
    times."""

    name: str
    summary: str
    starts_ranks: bool = False
    addresses: int = 150
    once: bool = False


TORCH = 720
"""MiB of addresses that torch's libraries take; those for other devices take more."""

COMMANDS = (
    CliCommand("serve", "serve a model over HTTP", starts_ranks=True, addresses=200),
    CliCommand("generate", "answer prompts on the terminal, without a server", addresses=200, once=True),
    CliCommand("explain", "show what each rank holds and every collective of a layout"),
    CliCommand("plan", "say which layouts of a model fit a cluster, and which few are worth measuring"),
    CliCommand(
        "dry-run", "run the real model code as one rank of any world, without weights, and count", addresses=TORCH
    ),
    CliCommand("manifest", "write what starts a layout's hosts as containers (Kubernetes, compose)", addresses=200),
    CliCommand("probe", "ask an agent or a server whether it is ready, for probes of containers", addresses=40),
    CliCommand("translate", "read another engine's command or file, or write one", addresses=40),
    CliCommand("verify", "prove that a layout gives the answers of one rank", addresses=TORCH, once=True),
    CliCommand("upcycle", "make a mixture of experts of a dense model, with the same answers", addresses=TORCH),
    CliCommand("experts", "plan where experts lie from recorded loads; show loads and placements"),
    CliCommand(
        "bench", "measure time to first token, time per token and throughput; compare layouts", addresses=200, once=True
    ),
)


def run(argv: Sequence[str]) -> int:
    """Runs the command that the words name; gives the exit code. KeyboardInterrupt alone is raised."""
    words = list(argv)
    debug = env.debug() or "--debug" in words
    name = words[0] if words and words[0] in {command.name for command in COMMANDS} else ""
    try:
        # Already here, because a server's modules take a second to import.
        with EndSignals() if name == "serve" else contextlib.nullcontext():
            return _dispatch(words)
    except Stopped:
        print("stopped", flush=True)
        return 0
    except SystemExit as end:  # argparse leaves this way after --help
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        _drop_stdout()
        return 0
    except WeftError as error:
        return _fail(name, str(error), error.exit_code, debug)
    except Exception as error:  # the last handler of the process: a defect ends in one line and a known exit code
        if (limited := addresses.explained(error) or task_limits.explained(error)) is not None:
            return _fail(name, str(limited), limited.exit_code, debug)
        message = f"internal error: {type(error).__name__}: {error} (--debug shows where)"
        return _fail(name, message, WeftError.exit_code, debug)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*(word for word in words[1:2] if word != "help"), "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else UsageError.exit_code
    if words[0] in ("-V", "--version", "version"):
        if words[1:]:
            raise UsageError(f"{words[0]}: {words[1]} has no effect on it; leave it out")
        print(f"weft {_version()}")
        return 0
    names = [command.name for command in COMMANDS]
    command = next((command for command in COMMANDS if command.name == words[0]), None)
    if command is None:
        near = nearest(words[0], (*names, "--version", "--help"))
        raise UsageError(f"unknown command {words[0]}{near} (commands: {', '.join(names)})")
    return run_command(command, words[1:])


def run_command(command: CliCommand, words: Sequence[str]) -> int:
    """Imports a command's module, parses its words and runs it."""
    addresses.check(command.addresses)
    _refuse_lost_place()
    _refuse_other_text(words)
    refuse_removed_flags(words)
    spawner = Spawner()
    if command.starts_ranks and not {"-h", "--help"} & set(words):
        # Importing torch takes as long as everything here that comes before the ranks get their work.
        spawner.start_ahead()
    try:
        return _run(command, words, spawner)
    finally:
        spawner.close()


def _refuse_lost_place() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working directory was removed: change to another") from None


def _refuse_other_text(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{ascii(word)}: not UTF-8 text") from None


def _of_serve(flag: str) -> str | None:
    """A hint for an option that only `weft serve` has."""
    parser = CommandParser()
    import_module("weft.cli.commands.serve").add_arguments(parser)
    return "it belongs to weft serve; leave it out" if flag in parser.flags() else None


def _run(command: CliCommand, words: Sequence[str], spawner: Spawner) -> int:
    with not_collected(), addresses.sparing():
        module = import_module(f"weft.cli.commands.{command.name.replace('-', '_')}")
    parser = CommandParser(prog=f"weft {command.name}", description=command.summary)
    parser.said_of = _of_serve
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error was raised (also WEFT_DEBUG=1)")
    args = parser.parse_command(words)
    args.spawner, args.command_words = spawner, [command.name, *words]
    if command.once:
        refuse_several_starts()
    code = module.run(args)
    assert isinstance(code, int)
    sys.stdout.flush()  # a closed pipe raises here; at exit it would only print a message
    return code


def _overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS]
    usage = "usage: weft COMMAND ...   (weft COMMAND --help; weft --version)"
    return "\n".join((usage, "", "Every module of a model has its own parallel layout.", "", *lines))


def _version() -> str:
    metadata = import_module("importlib.metadata")  # slow to import, and needed only here
    try:
        return str(metadata.version("weft"))
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _fail(name: str, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    message = printable_lines(message)  # it may quote files and arguments
    print(f"weft {name}: {message}" if name else f"weft: {message}", file=sys.stderr)
    if code == UsageError.exit_code:
        print(f"weft {name} --help lists the options" if name else "weft --help lists the commands", file=sys.stderr)
    return code


def _drop_stdout() -> None:
    """The reader of stdout has closed it; without this the interpreter's flush at exit would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
