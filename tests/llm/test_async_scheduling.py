"""Steps planned while the ranks run the one before give what steps planned one by one give, in real processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.launch_plan.cpu_affinity import CpuAssignment, assign_cpus
from weft.llm import LLM
from weft.step.sampling_params import SamplingParams

PROMPTS = [f"Tell me about number {number}, please: " for number in range(5)]
PARAMS = [SamplingParams(temperature=0.0, max_tokens=3 + 5 * n, ignore_eos=n % 2 == 0) for n in range(5)]


def texts(path: Path, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def assigned(*given: Any, way: bool) -> CpuAssignment:
        return replace(assign_cpus(*given, way=way), server=(0,) if ahead else ())

    monkeypatch.setattr("weft.launch_plan.plan.assign_cpus", assigned)
    with LLM(str(path), max_num_seqs=3) as llm:
        assert all(each.async_scheduling is ahead for each in llm._engines._executors)
        return [result.outputs[0].text for result in llm.generate(PROMPTS, PARAMS)]


def test_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_chat(tmp_path / "tiny")
    assert texts(path, True, monkeypatch) == texts(path, False, monkeypatch)
