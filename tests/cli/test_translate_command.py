"""`weft translate`, and `serve` and `explain` with another engine's words: output, schema, exit codes, no torch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from weft.base.errors import ConfigError, LayoutError, UsageError
from weft.cli.args import dialects as dialect_args
from weft.cli.args.model import add_model_arguments, engine_config_from, layout_from
from weft.cli.args.parser import CommandParser
from weft.cli.main import main
from weft.tools.dialects.report import json_schema

MODEL = Path(__file__).parents[1] / "tools" / "explain" / "data"
DP = " --dp 2 --enable-dp-attention"
SGLANG = f"python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp 4{DP}"
OPEN = "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size $TP"
VARIANTS = """# TP-8
tensor_parallel_size: 8
enable_attention_dp: false
# DP-8
tensor_parallel_size: 8
enable_attention_dp: true
"""
ROLES = (
    "model: meta-llama/Llama-3.1-8B\ncontext_servers: {tensor_parallel_size: 2, num_instances: 2}\n"
    "generation_servers: {tensor_parallel_size: 8, enable_attention_dp: true, tp_sise: 3}\n"
)
MINDIE = '{"ModelConfig": [{"modelName": "llama_65b", "worldSize": 8, "tp": 2}]}'
REFUSED = '{"ModelConfig": [{"modelName": "llama_65b", "worldSize": 8, "tp": 2, "dp": 2}]}'

Run = tuple[int, str, str]
Command = Callable[..., Run]


@pytest.fixture
def weft(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in an empty folder; `text` becomes the file `in`."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str | None = None) -> Run:
        if text is not None:
            (tmp_path / "in").write_text(text)
        code = main(list(words))
        done = capsys.readouterr()
        return code, done.out, done.err

    return run


def answer(run: Run) -> dict[str, object]:
    """The JSON of a run, valid by its schema."""
    document = json.loads(run[1])
    jsonschema.validate(document, json_schema())
    assert isinstance(document, dict)
    return document


def test_words_behind_dashes(weft: Command) -> None:
    run = weft("translate", "--json", "--", *SGLANG.split())
    document = answer(run)
    assert (run[0], document["dialect"], document["refused"]) == (0, "sglang", None)
    layout = document["layout"]
    assert isinstance(layout, dict)
    assert (layout["world"], layout["attention"]["tp"], layout["attention"]["dp"]) == (4, 2, 2)
    options = document["options"]
    assert isinstance(options, dict) and options["model"] == "meta-llama/Llama-3.1-8B"


def test_the_same_from_a_file_and_from_stdin(weft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from_file = answer(weft("translate", "--json", "in", text=SGLANG))
    code = "import sys; from weft.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "translate", "--json", "-"]
    done = subprocess.run(words, input=SGLANG, capture_output=True, text=True, timeout=240, check=True)
    assert json.loads(done.stdout) == from_file


@pytest.mark.parametrize("text", [SGLANG, OPEN, VARIANTS, ROLES, MINDIE, REFUSED, "[1", "a: [", '{"worldSize": }'])
@pytest.mark.parametrize("way", [[], ["--strict"], ["--nodes", "2"], ["--to", "layout"]])
def test_every_answer_is_valid(weft: Command, text: str, way: list[str]) -> None:
    dialect = [] if len(text) > 20 else ["--from", "mindie"]
    run = weft("translate", "--json", *dialect, *way, "in", text=text)
    document = answer(run)
    assert run[0] == (1 if document["refused"] else 0)


def test_two_roles_are_two_layouts(weft: Command) -> None:
    document = answer(weft("translate", "--json", "in", text=ROLES))
    layouts, options = document["layouts"], document["options"]
    assert isinstance(layouts, dict) and isinstance(options, dict)
    assert [(name, layout["world"], layout["replicas"]) for name, layout in layouts.items()] == [
        ("prefill", 4, 2),
        ("decode", 8, 1),
    ]
    assert set(options) == {"prefill", "decode"}
    notes = document["notes"]
    assert isinstance(notes, list) and {note["engine"] for note in notes} == {"prefill", "decode"}


def test_variants_are_named_by_their_comments(weft: Command) -> None:
    layouts = answer(weft("translate", "--json", "in", text=VARIANTS))["layouts"]
    assert isinstance(layouts, dict)
    assert {name: layout["attention"]["dp"] for name, layout in layouts.items()} == {"TP-8": 1, "DP-8": 8}


def test_open_sizes_are_null_until_they_are_set(weft: Command) -> None:
    document = answer(weft("translate", "--json", "--", *OPEN.split()))
    layout = document["layout"]
    assert isinstance(layout, dict)
    assert (document["variables"], layout["world"], layout["attention"]["tp"]) == (["TP"], None, None)
    layout = answer(weft("translate", "--json", "--set", "TP=4", "--", *OPEN.split()))["layout"]
    assert isinstance(layout, dict) and layout["world"] == 4


def test_strict_refuses_unknown_words(weft: Command) -> None:
    assert answer(weft("translate", "--json", "in", text=ROLES))["refused"] is None
    run = weft("translate", "--json", "--strict", "in", text=ROLES)
    refused = answer(run)["refused"]
    assert run[0] == 1 and isinstance(refused, dict)
    assert refused["engine"] == "decode" and "unknown key tp_sise; did you mean tp_size?" in refused["message"]


def test_nodes_are_said_beside_the_text(weft: Command) -> None:
    layout = answer(weft("translate", "--json", "--nodes", "2", "in", text=MINDIE))["layout"]
    assert isinstance(layout, dict) and layout["nodes"] == 2
    run = weft("translate", "--json", "--nodes", "3", "in", text=MINDIE)
    refused = answer(run)["refused"]
    assert run[0] == 1 and isinstance(refused, dict) and refused["legal"] == [1, 2, 4, 8]


def test_a_config_beside_says_the_experts(weft: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "x_moe", "num_experts": 60}')
    words = ["--json", "--model-config", "config.json", "--", "vllm", "serve", "odd/name", "-tp", "4"]
    layout = answer(weft("translate", *words))["layout"]
    assert isinstance(layout, dict) and layout["experts"]["slots"] == 60
    layout = answer(weft("translate", "--json", "--", "vllm", "serve", str(tmp_path), "-tp", "4"))["layout"]
    assert isinstance(layout, dict) and layout["experts"]["slots"] == 60


def test_a_file_that_the_words_name_is_read(weft: Command, tmp_path: Path) -> None:
    (tmp_path / "extra.yaml").write_text("enable_attention_dp: true\n")
    words = "trtllm-serve meta-llama/Llama-3.1-8B --tp_size 4 --extra_llm_api_options extra.yaml"
    layout = answer(weft("translate", "--json", "--", *words.split()))["layout"]
    assert isinstance(layout, dict) and layout["attention"]["dp"] == 4


def test_text_shows_layout_options_and_notes_with_places(weft: Command) -> None:
    code, out, _ = weft("translate", "in", text=MINDIE)
    assert code == 0
    assert out.startswith("MindIE, world 8:\n  world: 8\n") and "attention: {tp: 2, dp: 4" in out
    assert "options:\n" in out and "  served_model_name: llama_65b\n" in out
    assert "  warning  line 1, column 67: tp 2 without dp" in out
    code, out, _ = weft("translate", "in", text=REFUSED)
    assert code == 1
    assert "MindIE would refuse this: line 1, column 67: tp 2 x dp 2 = 4, but worldSize is 8" in out
    assert "(legal: 1, 2, 4, 8)" in out
    code, out, _ = weft("translate", "--", *OPEN.split())
    assert "vLLM, world open:\n  world: null\n" in out and "--set TP=N gives it" in out
    code, out, _ = weft("translate", "in", text=VARIANTS)
    assert "== TP-8\n" in out and "== DP-8\n" in out


@pytest.mark.parametrize("target", ["sglang", "trtllm", "vllm", "mindie", "tokenspeed", "tensorrt-llm"])
def test_what_is_written_is_alone_on_stdout(weft: Command, target: str) -> None:
    code, out, err = weft("translate", "--to", target, "--", *SGLANG.removesuffix(DP).split())
    assert code == 0 and "notes:" in err and "notes" not in out
    again = answer(weft("translate", "--json", "in", text=out))
    layout = again["layout"]
    assert again["dialect"] in (target, "trtllm") and isinstance(layout, dict) and layout["world"] == 4


def test_what_the_target_would_refuse_is_no_success(weft: Command) -> None:
    run = weft("translate", "--json", "--to", "mindie", "--", *SGLANG.replace(DP, " --dcp-size 2").split())
    assert run[0] == 1
    written = answer(run)["written"]
    assert isinstance(written, dict) and "sp 2: must be tp 4" in written["notes"][-1]["message"]


def test_wefts_own_words(weft: Command, tmp_path: Path) -> None:
    code, out, _ = weft("translate", "--to", "layout", "--", *SGLANG.split())
    assert code == 0 and out.startswith("world: 4\n")
    (tmp_path / "layout.yaml").write_text(out)
    code, _, err = weft("explain", str(MODEL), "--layout", "layout.yaml")
    assert (code, err) == (0, "")


def test_the_schema_is_printed(weft: Command) -> None:
    code, out, _ = weft("translate", "--schema")
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (code, schema) == (0, json_schema())


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--from", "vlm", "in"], 2, "unknown dialect vlm; did you mean vllm?"),
        (["--to", "vlm", "in"], 2, "unknown dialect vlm; did you mean vllm?"),
        (["in", "--", "vllm", "serve", "x"], 2, "both a file (in) and words after --"),
        (["--"], 2, "no words follow --"),
        (["--nodes", "0", "in"], 78, "--nodes: 0 is out of range; legal: at least 1"),
        (["--set", "TP", "in"], 2, "--set TP: NAME=VALUE is wanted"),
        (["none"], 78, "none: No such file or directory"),
        (["--model-config", "none", "in"], 65, "none: not a model's config.json"),
        (["--to", "sglang", "--", *OPEN.split()], 78, "give --set TP=..."),
        (["--", "ls", "-l"], 2, "this looks like no engine's command or file"),
        (["--jsn", "in"], 2, "unknown option --jsn; did you mean --json?"),
    ],
)
def test_mistakes_are_one_message(weft: Command, words: list[str], code: int, text: str) -> None:
    found, _, err = weft("translate", *words, text=MINDIE)
    assert found == code and text in err and "Traceback" not in err


@pytest.mark.parametrize(("data", "text"), [(b"\xff\xfe", "not UTF-8 text"), (b" \n", "nothing in it")])
def test_files_that_hold_no_text(weft: Command, tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "odd").write_bytes(data)
    code, _, err = weft("translate", "odd")
    assert code in (2, 78) and text in err


def test_another_engines_command_says_whose_it_is(weft: Command) -> None:
    run = weft("translate", "--json", "--from", "vllm", "--", *SGLANG.split())
    refused = answer(run)["refused"]
    assert run[0] == 1 and isinstance(refused, dict)
    assert "SGLang" in refused["message"] and refused["legal"] == ["sglang"]


def test_translate_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from weft.cli.main import main\n"
        f"codes = [main(['translate', '--json', '--', *{SGLANG.split()!r}]), main(['translate', '--to', 'mindie', '--',"
        f" *{SGLANG.split()!r}])]\n"
        "assert codes == [0, 0], codes"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def parsed(*words: str) -> argparse.Namespace:
    """The words of a command that takes another engine's, read into its arguments."""
    parser = CommandParser(prog="weft test")
    add_model_arguments(parser)
    dialect_args.add_dialect_arguments(parser)
    args = parser.parse_command(words)
    dialect_args.take_foreign(args)
    return args


def test_serve_takes_layout_engine_options_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--max-running-requests 7 --dtype half --host 0.0.0.0 --watchdog-timeout 9 --nonsense"
    args = parsed("--from", "sglang", "--", *SGLANG.split(), *words.split())
    config = engine_config_from(args)
    assert (config.max_num_seqs, config.dtype, args.model) == (7, "float16", "meta-llama/Llama-3.1-8B")
    assert (args.dialect_given["attention.tp"], args.dialect_given["attention.dp"]) == (2, 2)
    err = capsys.readouterr().err
    assert "weft has no such setting: watchdog_timeout" in err and "unknown flag --nonsense" in err
    assert "weft listens where its own --host and --port say" in err


def test_cpus_that_a_vllm_command_lists_are_taken() -> None:
    args = parsed("--from", "vllm", "--", "env", "VLLM_CPU_OMP_THREADS_BIND=0-7|8-15", "vllm", "serve", "x", "-tp", "2")
    assert engine_config_from(args).cpus == "0-7|8-15"


def test_a_model_of_its_own_wins_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed("mine", "--", *SGLANG.split())
    assert args.model == "mine"
    assert "mine is the model, not meta-llama/Llama-3.1-8B of the sglang arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "foreign", "text"),
    [
        (
            ["--max-num-seqs", "8"],
            "--max-running-requests 7",
            "max_num_seqs is 7 in the sglang arguments, but --max-num-seqs gives 8",
        ),
        ([], "--dp 3", "sglang would refuse this: --dp 3"),
        ([], "--pp $PP", "sizes depend on PP; give --set PP=..."),
    ],
)
def test_contradictions_name_both(own: list[str], foreign: str, text: str) -> None:
    words = "python -m sglang.launch_server --model-path x/llama --tp 4 --enable-dp-attention".split()
    with pytest.raises(ConfigError) as caught:
        parsed(*own, "--", *words, *foreign.split())
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (
            ["--attn-tp-size", "1"],
            "attention.tp is 2 in the sglang arguments, but --attn-tp-size gives 1; leave one out",
        ),
        (["--tp", "4"], "--tp 4 and the sglang arguments both size every module; leave one out"),
        (["--world-size", "8"], "but --world-size is 8"),
    ],
)
def test_sizes_that_contradict_name_both(own: list[str], text: str) -> None:
    args = parsed(*own, "--", *SGLANG.split())
    config: Any = SimpleNamespace(num_experts=0)
    with pytest.raises(LayoutError) as caught:
        layout_from(args, config)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--from", "sglang"], "--from sglang needs the engine's words after --"),
        (["--"], "no words follow --"),
        (["--set", "TP=4"], "--set TP=4 is for another engine's words"),
    ],
)
def test_words_are_needed(words: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parsed(*words)


def test_two_engines_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.yaml").write_text(ROLES)
    with pytest.raises(ConfigError, match=r"describe 2 engines \(prefill, decode\)"):
        parsed("--", "trtllm-serve", "disaggregated", "-c", "d.yaml")


def test_explain_with_another_engines_words(weft: Command) -> None:
    words = "python -m sglang.launch_server --model-path x/llama --tp 2".split()
    code, out, _ = weft("explain", str(MODEL), "--json", "--from", "sglang", "--", *words)
    assert code == 0 and json.loads(out)["layout"]["attention"]["tp"] == 2
    code, _, err = weft("explain", str(MODEL), "--lm-head-tp-size", "1", "--", *words)
    assert code == 78 and "lm_head.tp is 2 in the sglang arguments, but --lm-head-tp-size gives 1" in err


def test_a_setting_that_nothing_depends_on_is_named(weft: Command) -> None:
    notes = answer(weft("translate", "in", "--json", "--set", "TPP=4", text=OPEN))["notes"]
    assert isinstance(notes, list)
    (note,) = [note for note in notes if note["code"] == "unused-setting"]
    assert note["message"] == "--set TPP: nothing depends on it; did you mean TP?"
    used = answer(weft("translate", "in", "--json", "--set", "TP=4", text=OPEN))["notes"]
    assert isinstance(used, list) and all(note["code"] != "unused-setting" for note in used)


def test_experts_that_are_no_number_are_an_error(weft: Command) -> None:
    code, _, err = weft("translate", "in", "--set", "experts=many", text=OPEN)
    assert code == 2 and "--set experts=many: a whole number" in err


def test_the_output_of_a_command_can_be_set_as_the_note_says(weft: Command) -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B -tp $(nvidia-smi --a=b | wc -l)"
    assert "--set '$(nvidia-smi --a=b | wc -l)=N'" in weft("translate", "in", text=text)[1].replace("\n", " ")
    document = answer(weft("translate", "in", "--json", "--set", "$(nvidia-smi --a=b | wc -l)=8", text=text))
    layout = document["layout"]
    assert isinstance(layout, dict) and layout["world"] == 8
