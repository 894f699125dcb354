"""`--from` in serve and translate: files, fragments and whole texts as words, and words that are no size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.base.errors import UsageError
from weft.cli.main import main
from weft.cli.single_start import refuse_several_starts
from weft.tools.dialects.base import Context
from weft.tools.dialects.mindie.dialect import balanced
from weft.tools.dialects.registry import read_words

MINDIE = {"BackendConfig": {"ModelDeployConfig": {"ModelConfig": [{"modelWeightPath": "/nope", "worldSize": 2}]}}}
NO_MODEL = "model /nope: no such file or directory"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_file_s_name_is_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MINDIE))
    monkeypatch.chdir(tmp_path)
    code, text = said(capsys, "serve", "--from", "mindie", "--", "config.json")
    assert code != 0 and NO_MODEL in text, "it was read: the model that it names is not there"
    code, text = said(capsys, "translate", "--from", "mindie", "--", "config.json")
    assert code == 0 and "attention.tp 2" in text


@pytest.mark.parametrize(
    "text",
    ['"worldSize": 2, "dp": 1', '{"worldSize": 2, "dp": 1', '{"worldSize": 2, "dp": 1}}', '{"worldSize": 2, "dp": 1,'],
)
def test_a_fragment_is_read(text: str) -> None:
    (reading,) = read_words([text], "mindie", Context())
    assert reading.refused is None and reading.sizes is not None and (reading.sizes.tp, reading.sizes.dp) == (2, 1)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"a": [1', '{"a": [1]}'),
        ('{"a": "}"', '{"a": "}"}'),
        ('{"a": 1}}', '{"a": 1}'),
        ('{"a": [1}', '{"a": [1}'),
        ('{"a": 1,', '{"a": 1}'),
    ],
)
def test_brackets_at_the_end_are_made_up_for(text: str, whole: str) -> None:
    assert balanced(text) == whole


def test_several_commands_in_one_argument() -> None:
    (reading,) = read_words(["cd /x; export A=1; vllm serve /nope -tp 2"], "vllm", Context())
    assert reading.sizes is not None and reading.sizes.tp == 2


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (
            "--from vllm -- vllm serve /nope --gpu-memory-utilization 0.5",
            "gpu_memory_utilization is mem_fraction_static",
        ),
        ("--from vllm -- vllm serve /nope --tool-call-parser hermes --reasoning-parser qwen3", "tool_call_parser"),
        (
            "--from sglang -- python -m sglang.launch_server --model-path /nope --moe-a2a-backend deepep",
            "DeepEP is not",
        ),
        ("--from vllm -- vllm serve /nope --all2all-backend=deepep_low_latency", "DeepEP is not there"),
        (
            "--from sglang -- SGLANG_USE_1STAGE_ALLREDUCE=1 python -m sglang.launch_server --model-path /nope",
            "one fixed",
        ),
        ("--from vllm -- HCCL_BUFFSIZE=512 vllm serve /nope", "HCCL_BUFFSIZE: buffers"),
    ],
)
def test_what_is_no_size_is_noted(words: str, note: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "serve", *words.split())
    assert code != 0 and NO_MODEL in text and note in text


def test_translate_notes_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = "translate --strict --from sglang -- python -m sglang.launch_server --model-path /nope --deepep-mode normal"
    code, text = said(capsys, *words.split())
    assert code == 0 and "note: DeepEP is not there" in text


@pytest.mark.parametrize("environ", [{"TORCHELASTIC_RUN_ID": "x"}, {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}])
def test_torchrun_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="run the command once, with --tp N"):
        refuse_several_starts(environ)


def test_several_tasks_of_srun_are_refused() -> None:
    with pytest.raises(UsageError, match="in each of its 4 tasks: run the command once, with --tp N"):
        refuse_several_starts({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"})


def test_one_process_is_not() -> None:
    refuse_several_starts({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"})
    refuse_several_starts({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"})  # a shell of sbatch or salloc starts no tasks
    refuse_several_starts({"WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    refuse_several_starts({"WORLD_SIZE": "8"})


@pytest.mark.parametrize(
    "words",
    ["generate hi", "verify --tp 2", "bench /nope --tp 2", "bench --url http://127.0.0.1:1", "serve /nope --tp 2"],
)
def test_every_command_that_starts_ranks_refuses_torchrun(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    code, text = said(capsys, *words.split())
    assert code == 2 and "torchrun" in text


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_from_wins_over_what_a_file_looks_like(engine: str) -> None:
    (reading,) = read_words(["tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\n"], engine, Context())
    assert reading.dialect == engine and reading.refused is None
    assert reading.sizes is not None and reading.sizes.tp == 4
