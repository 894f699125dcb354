"""Real processes on the cores that a person lists: a rank's threads, and the thread that steps the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import ConfigError, PeerError
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.runtime.launch_plan.cpu_affinity import read_list


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_chat(tmp_path_factory.mktemp("tiny")))


def places(pid: int) -> Iterator[tuple[int, frozenset[int] | None]]:
    """Every thread of a process, with the CPUs that it may run on."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        yield int(task.name), read_list(lines["Cpus_allowed_list"])


def test_a_rank_computes_on_the_cpu_that_is_listed(model: str) -> None:
    """The last CPU here: without a list there is a thread on the first, too."""
    before = os.sched_getaffinity(0)
    last = max(before)
    with LLM(model, cpus=str(last)) as llm:
        llm.generate("Tell me: ", SamplingParams(max_tokens=4))
        (worker,) = llm._engines._executors[0].workers
        assert dict(places(worker.pid))[worker.pid] == frozenset({last}), "the first thread of the process computes"
        assert str(llm.plan.cores[0]) == f"1 thread on cpus {last}"
        assert os.sched_getaffinity(0) == before, "a caller's thread is its own"


def test_a_caller_s_thread_keeps_to_the_server_s_cpus_until_the_end(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.sched_getaffinity(0)
    if len(before) == 1:
        with pytest.raises(ConfigError, match="it leaves 0 cores to 1 thread of 1 rank"):
            LLM(model, server_cpus=str(max(before)))
        return
    with LLM(model, server_cpus=str(max(before))) as llm:
        assert os.sched_getaffinity(0) == {max(before)}
        (worker,) = llm._engines._executors[0].workers
        cpus = dict(places(worker.pid))[worker.pid]
        assert cpus is not None and cpus <= before - {max(before)}
    assert os.sched_getaffinity(0) == before

    def fails(*_: object, **__: object) -> None:
        assert os.sched_getaffinity(0) == {max(before)}
        raise PeerError("a rank died")

    monkeypatch.setattr("weft.frontend.serving.offline.Starting", fails)
    with pytest.raises(PeerError):
        LLM(model, server_cpus=str(max(before)))
    assert os.sched_getaffinity(0) == before
