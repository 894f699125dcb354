"""Options of other engines: each row of the table does what the reference says, and none has a wrong nearest name."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from weft.base.errors import UsageError
from weft.cli.args.familiar import WORDS, FamiliarWord, familiar
from weft.cli.args.parser import CommandParser
from weft.cli.dispatch import COMMANDS

ENGINES = {"vllm", "sglang", "trtllm", "tokenspeed", "mindie", "llama.cpp", "ollama", "transformers"}
ROWS = [(name, word) for word in WORDS for name in word.names]
VALUES = {
    "--served-model-name": "name",
    "--kv-cache-memory": "1GiB",
    "--dtype": "bfloat16",
    "--max-model-len": "128",
    "--api-key-file": "/key",
}
"""Legal values of weft's options that take no small number."""


def parser_of(name: str) -> CommandParser:
    parser = CommandParser(prog=f"weft {name}")
    import_module(f"weft.cli.commands.{name.replace('-', '_')}").add_arguments(parser)
    return parser


FLAGS = {command.name: frozenset(parser_of(command.name).flags()) for command in COMMANDS}


def command_with(flag: str) -> str:
    """A command that has this option of weft."""
    return next(name for name in ("serve", "generate", *FLAGS) if flag in FLAGS[name])


def parsed(command: str, *words: str) -> dict[str, object]:
    args: argparse.Namespace = parser_of(command).parse_command(words)
    found = dict(vars(args))
    for name, given in found.items():
        if isinstance(given, dict):
            found[name] = {each: getattr(entry, "value", entry) for each, entry in given.items()}
    return found


def test_the_table_has_sixty_options_of_all_engines() -> None:
    assert len(WORDS) >= 60 and {engine for word in WORDS for engine in word.engines} == ENGINES
    assert len({name for name, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("name", "word"), ROWS, ids=[name for name, _ in ROWS])
def test_a_row_does_what_it_says(name: str, word: FamiliarWord, capsys: pytest.CaptureFixture[str]) -> None:
    assert name not in FLAGS["serve"], "an option of weft itself needs no row"
    if word.kind == "refused":
        with pytest.raises(UsageError) as caught:
            parsed("serve", name, *([] if word.bare else ["1"]))
        assert str(caught.value) == f"unknown option {name}; {word.says}" and "did you mean" not in str(caught.value)
        return
    if word.kind == "model":
        assert parsed("serve", name, "org/name")["model"] == parsed("serve", f"{name}=org/name")["model"] == "org/name"
        return
    if word.kind == "taken":
        values = [[]] if word.bare else [[value] for value in word.accepts]
        for value in values:
            assert parsed("serve", name, *value) == parsed("serve")
            assert capsys.readouterr().err == f"note: {name}: {word.says}\n"
        if word.accepts:
            with pytest.raises(UsageError, match=f"{name} other: "):
                parsed("serve", name, "other")
        return
    command, given = command_with(word.to), VALUES.get(word.to, "1")
    theirs = [name] if word.bare else [name, given]
    ours = [word.to] if word.bare and word.value is None else [word.to, word.value or given]
    assert parsed(command, *theirs) == parsed(command, *ours)
    assert bool(capsys.readouterr().err) == bool(word.says)


def test_every_target_is_an_option_of_weft() -> None:
    assert all(any(word.to in flags for flags in FLAGS.values()) for word in WORDS if word.kind == "to")


def test_underscores_count_as_dashes() -> None:
    assert parsed("serve", "--max_running_requests", "3") == parsed("serve", "--max-num-seqs", "3")
    assert familiar("--tp_size") is familiar("--tp-size") is familiar("-tp")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "-tp"], "-tp: a value is missing"),
        (["serve", "--model", "a/b", "-m", "c/d"], "-m c/d: the model is a/b already; leave one out"),
        (["explain", "--key-file", "x"], "unknown option --key-file; it is --api-key-file of other commands of weft"),
        (["generate", "--model", "nothing", "hi"], "--model nothing: no such file or directory, and not a hub id"),
        (["experts", "--model", "a/b"], "no model is named here"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    assert said in str(caught.value)
