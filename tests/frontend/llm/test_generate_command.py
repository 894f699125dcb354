"""`weft generate` as a person types it: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.cli.main import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_chat(tmp_path_factory.mktemp("generate") / "tiny"))


def generate(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft.cli.main", "generate", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, input=text or "")


def test_prompts_as_json(model: str) -> None:
    named = ("--served-model-name", "weaver,other")
    done = generate(
        model, "Hello", "Bye", "--json", "--n", "2", "--max-tokens", "5", "--ignore-eos", "--tp", "2", *named
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "weft.generate/1" and document["model"] == "weaver"
    assert (
        document["layout"]["world"] == 2
        if "world" in document["layout"]
        else document["layout"]["attention"]["tp"] == 2
    )
    assert [len(result["outputs"]) for result in document["results"]] == [2, 2]
    assert document["results"][0]["prompt"].startswith("<|im_start|>user\nHello<|im_end|>")
    assert all(len(output["token_ids"]) == 5 for result in document["results"] for output in result["outputs"])


def test_one_prompt_streams_its_answer_and_nothing_else(model: str) -> None:
    raw = generate(model, "--raw", "--max-tokens", "6", "--ignore-eos", text="Once upon")
    assert raw.returncode == 0, raw.stderr
    assert "starting 1 rank of tiny" in raw.stderr
    again = generate(model, "Once upon", "--raw", "--max-tokens", "6", "--ignore-eos", "--json")
    assert json.loads(again.stdout)["results"][0]["outputs"][0]["text"] + "\n" == raw.stdout


def test_without_a_chat_template_the_text_goes_on_and_that_is_said(tmp_path: Path) -> None:
    bare = write_tiny_chat(tmp_path / "bare")
    settings = bare / "tokenizer_config.json"
    words = json.loads(settings.read_text())
    del words["chat_template"]
    settings.write_text(json.dumps(words))
    given = ("Once upon", "--max-tokens", "6", "--ignore-eos")
    plain, raw = generate(str(bare), *given), generate(str(bare), *given, "--raw")
    assert plain.returncode == 0 and plain.stdout == raw.stdout
    said = "the model has no chat template: the text itself is continued, as with --raw"
    assert said in plain.stderr.splitlines() and said not in raw.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "no prompt"),
        (("",), 2, "a prompt is empty"),
        (("x", "--temperature", "hot"), 2, "--temperature"),
        (("x", "--logit-bias", "5"), 2, "is not ID:BIAS"),
        (("x", "--temprature", "1"), 2, "--temperature"),
        (("x", "--raw", "--system", "Be brief."), 2, "--system"),
        (("x", "--temperature", "-1"), 2, "temperature -1"),
    ],
)
def test_mistakes(model: str, words: tuple[str, ...], code: int, said: str) -> None:
    done = generate(model, *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_what_is_piped_in_is_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8", errors=errors))
        assert main(["generate"]) == 2
        assert "stdin: not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max-model-len 999999", "max_model_len 999999"),
        ("--kv-cache-memory 1", "--kv-cache-memory 1 B holds 0 blocks"),
        ("--quantization gguf", "the model has no tensor in Q8_0, Q4_0, Q4_1"),
        ("--threads 999", "threads 999"),
        ("--activations int8", "activations int8"),
    ],
)
def test_what_cannot_be_is_refused_before_ranks_are_said_to_start(model: str, option: str, said: str) -> None:
    done = generate(model, "x", "--dtype", "bfloat16", *option.split())
    assert done.returncode == 78 and said in done.stderr
    assert "starting" not in done.stderr
