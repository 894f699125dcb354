"""The help: short for a first look, complete with `--help all`; and other programs' options, which name weft's."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from weft.cli.args.parser import CommandParser, Expert
from weft.cli.dispatch import COMMANDS
from weft.cli.main import main

MOST_ENTRIES = 45
NAMES = [command.name for command in COMMANDS]


def parser_of(name: str) -> CommandParser:
    parser = CommandParser(prog=f"weft {name}")
    import_module(f"weft.cli.commands.{name.replace('-', '_')}").add_arguments(parser)
    return parser


def flags_in(text: str) -> set[str]:
    """The options that have an entry; a flag and its --no- form are one entry."""
    heads = re.findall(r"^  (-.*?)(?:  |$)", text, re.M)
    return {flag for head in heads for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", head)}


@pytest.mark.parametrize("name", NAMES)
def test_help_is_short_and_help_all_has_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    short = capsys.readouterr().out
    assert main([name, "--help", "all"]) == 0
    whole = capsys.readouterr().out
    assert len(re.findall(r"^  -", short, re.M)) <= MOST_ENTRIES
    parser = parser_of(name)
    assert flags_in(whole) == {*parser.flags(), "--debug"}
    hidden = [action for action in parser._actions if isinstance(action.help, Expert)]
    assert flags_in(whole) - flags_in(short) == {flag for action in hidden for flag in action.option_strings}
    last = short.splitlines()[-1]
    assert last.startswith(f"weft {name} --help all shows {len(hidden)} more option") == bool(hidden)
    assert short.startswith(f"usage: weft {name} [options]") and "--help all shows" not in whole


def test_usage_shows_what_must_be_given() -> None:
    usages = {name: parser_of(name).format_help().splitlines()[0] for name in ("serve", "upcycle", "experts")}
    assert usages["serve"] == "usage: weft serve [options] [MODEL]"
    assert "--out DIR" in usages["upcycle"] and usages["experts"].endswith("[options] ACTION FILE")


def test_help_takes_all_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help", "everything"]) == 2
    assert "'everything' is not all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve --ctx-size 4096", "unknown option --ctx-size; use --max-model-len"),
        ("serve -c 4096", "unknown option -c; use --max-model-len"),
        ("serve --n-gpu-layers 99", "unknown option --n-gpu-layers; use --device"),
        ("serve -ngl 99", "unknown option -ngl; use --device"),
        ("serve -hf org/name", "unknown option -hf; the model is named without a flag"),
    ],
)
def test_options_of_other_programs_name_ours(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
