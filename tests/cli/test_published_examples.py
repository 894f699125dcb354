"""Every example that the five engines' documents publish, typed at `weft serve`: with `--from`, and directly where the
words are also weft's."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.support.dialects import Case, all_cases
from weft.cli.main import main

EXAMPLES = [case for case in all_cases() if case.group == "documented"]
READ = 65, "model /nope: no such file or directory"
"""The layout was read, and the model is what is missing."""
OTHERWISE = {
    "intel": (78, "device: xpu is not one of cpu, cuda"),
    "two variants": (78, "the words describe 2 engines"),
    "attention": (78, "the words describe 2 engines (TP-8, DP-8); weft serves one"),
    "experts": (78, "the words describe 3 engines"),
    "the page's text lost its <": (78, "the words describe 2 engines"),
    "experts with a model": (78, "the words describe 3 engines"),
    "the format alone": (78, "sizes depend on data-parallel-size; give --set data-parallel-size=..."),
    "the JSON alone": (78, "sizes depend on data-parallel-size; give --set data-parallel-size=..."),
}
"""Examples that show several engines, a fragment without its sizes, or a device that weft does not have."""
DIRECTLY = {
    "--dp-size": "engines differ: use --replicas N",
    "--moe-a2a-backend": "use --moe-dispatch",
    "--attention-backend": "each device has one attention backend",
    "--device xpu": "'xpu' is not one of cpu, cuda",
    "--data-parallel-size": "or --attn-dp-size N",
}
"""Words that are refused on weft's own command line -> what is said."""
COMMAND = re.compile(r"^[^\n]*?(?:(?:tokenspeed|vllm) serve \S+|python -m \S+launch_server)([^#\n]*)", re.M)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def lines(text: str) -> str:
    """Each command on a line of its own."""
    text = re.sub(r"\\[ \t]*\n", " ", text).strip()
    return re.sub(r"'\{[^']*'", lambda quoted: quoted[0].replace("\n", " "), text)


@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_with_from(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    code, wanted = OTHERWISE.get(case.name, READ)
    settings = {**case.settings, **({} if case.experts is None else {"experts": str(case.experts)})}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    ways = [[case.text]]
    if case.dialect != "mindie" and "\n" not in lines(case.text) and "{" not in case.text:
        ways.append(shlex.split(lines(case.text), comments=True))
    for words in ways:
        found, text = said(capsys, "serve", "/nope", *sets, "--from", case.dialect, "--", *words)
        assert found == code and wanted in text, text
        assert "Traceback" not in text


def commands() -> list[tuple[str, list[str]]]:
    found = [(case.dialect, match[1]) for case in EXAMPLES for match in COMMAND.finditer(lines(case.text))]
    return [(dialect, shlex.split(re.sub(r"--model-path\s+\S+", "", words))) for dialect, words in found]


def test_every_command_is_typed() -> None:
    assert len(commands()) == 22 and {dialect for dialect, _ in commands()} == {"sglang", "tokenspeed", "vllm"}


@pytest.mark.parametrize(("dialect", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_directly(dialect: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "serve", "/nope", *words)
    refused = [answer for word, answer in DIRECTLY.items() if word in " ".join(words)]
    assert "Traceback" not in text
    wanted = (2, refused) if refused else (READ[0], [READ[1]])
    assert code == wanted[0] and all(answer in text for answer in wanted[1]), text
