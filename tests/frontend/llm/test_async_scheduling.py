"""Steps planned while the ranks run the one before give what steps planned one by one give, in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.step.plan import StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.runtime.supervisor.executor import ProcessExecutor

PROMPTS = [f"Tell me about number {number}, please: " for number in range(5)]
PARAMS = [SamplingParams(temperature=0.0, max_tokens=3 + 5 * n, ignore_eos=n % 2 == 0) for n in range(5)]


class NoExecutor:
    """No executor is of this class."""


def texts(path: Path) -> list[str]:
    with LLM(str(path), max_num_seqs=3) as llm:
        return [result.outputs[0].text for result in llm.generate(PROMPTS, PARAMS)]


def test_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, submit, waiting = write_tiny_chat(tmp_path / "tiny"), ProcessExecutor.submit, list[int]()

    def submit_noted(self: ProcessExecutor, plan: StepPlan) -> None:
        waiting.append(len(self._waiting))
        submit(self, plan)

    monkeypatch.setattr(ProcessExecutor, "submit", submit_noted)
    ahead = texts(path)
    assert 1 in waiting
    waiting.clear()
    monkeypatch.setattr("weft.engine.core.step_loop.AsyncExecutor", NoExecutor)
    assert texts(path) == ahead and {*waiting} == {0}
