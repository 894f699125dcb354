"""Pipeline stages in real processes answer as one rank does, with several steps in flight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.native_libraries import need
from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import LayoutError
from weft.base.step.plan import StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.runtime.supervisor.executor import ProcessExecutor

PROMPTS = [f"Tell me about number {number}, please: " * (1 + 3 * (number % 2)) for number in range(6)]
PARAMS = [
    SamplingParams(
        temperature=0.0 if n % 3 else 0.8,
        seed=n,
        max_tokens=3 + 5 * n,
        ignore_eos=n % 2 == 0,
        repetition_penalty=1.2 if n == 4 else 1.0,
        logprobs=1 if n == 5 else None,
    )
    for n in range(6)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def texts(path: Path, **options: Any) -> list[str]:
    with LLM(str(path), max_num_seqs=4, max_num_batched_tokens=16, dtype="float32", **options) as llm:
        return [result.outputs[0].text for result in llm.generate(PROMPTS, PARAMS)]


def test_the_same_answers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("comm", "step")
    alone = texts(model)
    submit, waiting = ProcessExecutor.submit, list[int]()

    def submit_noted(self: ProcessExecutor, plan: StepPlan) -> None:
        waiting.append(len(self._waiting))
        submit(self, plan)

    monkeypatch.setattr(ProcessExecutor, "submit", submit_noted)
    assert texts(model, layout={"pipeline.stages": 2}) == alone
    assert max(waiting) == 2, "three steps are in flight"


@pytest.mark.long
def test_stages_of_two_ranks_and_eager_ones(model: Path) -> None:
    alone = texts(model)
    assert texts(model, layout={"pipeline.stages": 2, "attention.tp": 2}) == alone
    assert texts(model, layout={"pipeline.stages": 2}, enforce_eager=True) == alone
    assert texts(model, layout={"pipeline.stages": 2}, comm="gloo") == alone


def test_layers_that_do_not_add_up_are_refused(model: Path) -> None:
    with pytest.raises(LayoutError, match="legal: 2 numbers that add up to"):
        texts(model, layout={"pipeline.layers": (9, 9)})
    with pytest.raises(LayoutError, match="pipeline stages 90: the model has"):
        texts(model, layout={"pipeline.stages": 90})
