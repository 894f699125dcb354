"""`weft COMMAND`: dispatch, exit codes, one message per error, no traceback unless asked for."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from weft.base.errors import CheckpointError, LayoutError, PeerError, WeftError
from weft.cli.dispatch import COMMANDS
from weft.cli.main import main

MODEL = Path(__file__).parents[1] / "tools" / "explain" / "data"


def command(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """Puts a command module in the place of `serve`."""
    module = types.ModuleType("weft.cli.commands.serve")
    module.__dict__["add_arguments"] = lambda parser: parser.add_argument("--size", type=int)
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "weft.cli.commands.serve", module)


def raising(error: BaseException) -> object:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LayoutError("lm_head tp 3"), 78, "weft serve: lm_head tp 3\n"),
        (CheckpointError("bad", ["a", "b"]), 65, "weft serve: bad\n  a\n  b\n"),
        (PeerError("rank 1 died"), 69, "weft serve: rank 1 died\n"),
        (WeftError("own"), 70, "weft serve: own\n"),
        (KeyError("x"), 70, "weft serve: internal error: KeyError: 'x' (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_one_message_and_a_code(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(monkeypatch, raising(error))
    assert main(["serve"]) == code
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_debug_shows_the_traceback(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, raising(LayoutError("wrong")))
    if way == "variable":
        monkeypatch.setenv("WEFT_DEBUG", "1")
    assert main(["serve", "--debug"] if way == "flag" else ["serve"]) == 78
    assert "Traceback" in capsys.readouterr().err


def test_the_code_of_a_command_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, lambda args: 1 if args.size == 3 else 0)
    assert main(["serve", "--size", "3"]) == 1
    assert main(["serve"]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["explian"], "weft: unknown command explian; did you mean explain?"),
        (["explain", "--dense-tp", "2"], "weft explain: unknown option --dense-tp; did you mean --dense-tp-size?"),
        (
            ["explain", "--prefill-stretch", "2"],
            "weft explain: unknown option --prefill-stretch; it belongs to weft serve; leave it",
        ),
        (["generate", "--port=3", "hi"], "weft generate: unknown option --port; it belongs to weft serve; leave it"),
        (["--versoin"], "weft: unknown command --versoin; did you mean --version?"),
        (["version", "extra"], "weft: version: extra has no effect on it; leave it out"),
        (["explain", "\udcff"], r"weft explain: '\udcff': not UTF-8 text"),
        (["explain", "--tp", "2", "--tp", "4"], "weft explain: --tp 2 and --tp 4 contradict each other"),
        (["generate", "hi", "--logprobs", "3"], "weft generate: --logprobs: only with --json"),
        (["bench", "--prefix-len", "3"], "weft bench: --prefix-len: without effect on --workload random; leave it"),
        (["verify", str(MODEL), "--seed", "3"], "weft verify: --seed: verify draws nothing; leave it out"),
        (
            ["serve", "--eplb-config.window_size=3"],
            "weft serve: unknown option --eplb-config.window_size; vLLM's option: use --eplb, --expert-slots",
        ),
        (
            ["serve", "--enable-lora"],
            "weft serve: unknown option --enable-lora; LoRA adapters are not served",
        ),
        (
            ["serve", "--numa-bind-cpus", "0-3"],
            "weft serve: unknown option --numa-bind-cpus; vLLM's option: use --cpus",
        ),
        (["explain", "--from", "mindie", "--", "/nope"], "weft explain: /nope: no such file"),
        (["serve", "--max-model-ln", "8"], "weft serve: unknown option --max-model-ln; did you mean --max-model-len?"),
    ],
)
def test_usage_errors_exit_with_two(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(text) and "--help" in hint


@pytest.mark.parametrize("closed", [[1], [0], [2], [0, 1, 2]])
def test_what_is_closed_takes_all_and_gives_nothing(closed: list[int], tmp_path: Path) -> None:
    """Nothing else is opened in its place."""
    places = tmp_path / "places"
    code = f"""
import os
from pathlib import Path
from weft.cli.main import main
code = main(["--version"])
Path({str(places)!r}).write_text(" ".join(os.readlink(f"/proc/self/fd/{{fd}}") for fd in {closed}))
raise SystemExit(code)
"""
    words = f'exec "$0" -c "$1" {" ".join(f"{fd}>&-" for fd in closed)}'
    done = subprocess.run(["bash", "-c", words, sys.executable, code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("weft ") == (1 not in closed)
    assert set(places.read_text().split()) == {os.devnull}


def test_a_working_directory_that_was_removed(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    words = 'cd "$1" && rmdir "$1" && exec "$0" -P -m weft.cli.main explain'
    done = subprocess.run(["bash", "-c", words, sys.executable, str(lost)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("weft explain: the working directory was removed: change to another\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(each.name in overview and each.summary in overview for each in COMMANDS)
    assert main(["explain", "--help"]) == 0
    assert "--o-proj-tp-size" in capsys.readouterr().out
    for word in ("--version", "-V", "version"):
        assert main([word]) == 0
        assert capsys.readouterr().out.startswith("weft ")
    for words in (["help"], ["help", "help"]):
        assert main(words) == 0
        assert capsys.readouterr().out in overview
    assert main(["help", "explain"]) == 0
    assert "--o-proj-tp-size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("--lm-head-tp-size 3 --world-size 8", 78, "lm_head tp 3: the layout has 8 ranks; legal: 1, 2, 4, 8"),
        ("--batch 0", 78, "--batch: 0 is out of range; legal: 1 to 1048576"),
        ("--batch 1048577", 78, "--batch: 1048577 is out of range; legal: 1 to 1048576"),
        ("--attn-tp-size 16", 78, "attention tp 16: num_attention_heads is 9"),
        ("--dtype float32 --layout /none.yaml", 78, "layout file /none.yaml: No such file or directory"),
    ],
)
def test_explain_refuses(words: str, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(MODEL), *words.split()]) == code
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file or directory"), ("{", "not JSON"), ("[]", "a JSON object is needed")],
)
def test_explain_names_what_is_wrong_with_a_config(
    content: str | None, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main(["explain", str(tmp_path)]) == 65
    assert text in capsys.readouterr().err


def test_explain_prints_text_json_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(MODEL), "--tp", "2"]) == 0
    assert "all_reduce" in capsys.readouterr().out
    assert main(["explain", str(MODEL), "--tp", "2", "--dtype", "float32", "--json", "--batch", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["dtype"], data["layout"]["world"], data["received_per_step"][1]["rows_per_dp_group"]) == (
        "float32",
        2,
        2,
    )
    assert main(["explain", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "weft.explain/3"


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from weft.cli.main import main; sys.exit(main(sys.argv[1:]))"
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-c", code, "explain", str(MODEL), "--tp", "2"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


INTERRUPTING = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == WHEN:
            os.kill(os.getpid(), signal.SIGINT)

WHEN = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("weft.cli.main", run_name="__main__", alter_sys=True)
print("ended", WHEN in sys.modules)
"""
"""Ctrl-C at the moment when a module is about to be imported."""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("serve", "argparse"),
        ("serve", "weft.cli.dispatch"),
        ("serve", "weft.runtime.supervisor.processes"),
        ("serve", "weft.cli.commands.serve"),
        ("serve", "weft.frontend.server.run"),
        ("generate", "weft.base.errors"),
        ("generate", "weft.frontend.llm"),
    ],
)
def test_ctrl_c_while_modules_are_imported_is_no_traceback(command: str, module: str) -> None:
    words = [sys.executable, "-c", INTERRUPTING, module, command, "/nowhere/at/all", "text"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_package_runs_as_the_command() -> None:
    words = [sys.executable, "-m", "weft", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.startswith("weft ")


def test_the_way_in_imports_next_to_nothing() -> None:
    """What is imported before anything can be caught leaves Ctrl-C a traceback."""
    code = "import sys; before = set(sys.modules); import weft.cli.main; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["__future__", "weft", "weft.cli", "weft.cli.main"]


def test_the_overview_imports_neither_torch_nor_commands() -> None:
    code = (
        "import sys; from weft.cli.main import main; main(['--help']); "
        "print({'torch', 'numpy', 'rich', 'weft.cli.commands.explain'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
