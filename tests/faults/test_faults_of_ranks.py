"""Ranks that die, stop, differ or come late: which is named, with what, within which time. The ranks have no torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.fake_group import fake_plan, spawner
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import children
from weft.base.errors import ConfigError, PeerError, WeftError
from weft.base.step.plan import GroupPlan, ScheduledRequest, StepPlan
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.runtime.launch_plan.timeouts import ProcessLimits, StepClock
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.processes import WorkerProcess
from weft.runtime.supervisor.start import Starting

ROOT = Path(__file__).resolve().parents[2]
NOTICED_S = 20.0
"""At once, on a machine with much else to do: well before the least limit of a step, 30 s, ends."""
STEP_LIMIT_S = 2.0


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
    return fake_plan(write_tiny_chat(tmp_path_factory.mktemp("tiny")), ProcessLimits())


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    before = children(os.getpid())
    yield
    assert set(children(os.getpid())) <= set(before)


def step(executor: ProcessExecutor, index: int) -> None:
    run = ScheduledRequest(slot=3, start=index, count=1, ids=[1], blocks=[1], sample=True, output_pos=index)
    executor.step(StepPlan(index, [GroupPlan([], [run]), GroupPlan([], [])]))


def fails(plan: LaunchPlan, behaviour: str) -> tuple[WeftError, float]:
    """The error of the third step, and how long that took."""
    executor = Starting(plan, None, spawner(behaviour)).wait()
    try:
        for index in range(2):
            step(executor, index)
        began = time.monotonic()
        with pytest.raises(WeftError) as caught:
            step(executor, 2)
        return caught.value, time.monotonic() - began
    finally:
        executor.close()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT", "SIGBUS", "SIGSEGV"])
def test_a_signal_that_ends_a_rank_is_named_at_once(plan: LaunchPlan, name: str) -> None:
    error, took = fails(plan, name)
    assert isinstance(error, PeerError) and error.exit_code == 69
    assert "rank 1 (dp 1) pid " in str(error)
    assert f"was killed by {name} in phase serving, in step 3" in str(error)
    assert took <= NOTICED_S


def test_a_rank_killed_while_idle_is_named(plan: LaunchPlan) -> None:
    executor = Starting(plan, None, spawner("good")).wait()
    wake = os.eventfd(0)
    try:
        step(executor, 0)
        os.kill(executor.workers[1].pid, signal.SIGKILL)
        with pytest.raises(PeerError, match=r"rank 1 \(dp 1\) pid \d+ was killed by SIGKILL .* after step 1"):
            executor.wait(wake)
    finally:
        os.close(wake)
        executor.close()


def test_a_stopped_rank_is_named_after_the_step_limit(plan: LaunchPlan) -> None:
    error, took = fails(replace(plan, limits=ProcessLimits(step_limit=STEP_LIMIT_S)), "stopped")
    assert "no answer to step 2 within 2 s from rank 1" in str(error)
    assert "rank 1 (dp 1) pid" in str(error) and "is suspended (SIGSTOP)" in str(error)
    assert STEP_LIMIT_S <= took <= STEP_LIMIT_S + NOTICED_S


def test_a_rank_killed_while_loading_is_named_with_the_phase(plan: LaunchPlan) -> None:
    with pytest.raises(PeerError, match=r"rank 1 \(dp 1\) pid \d+ was killed by SIGKILL in phase load; .*memory"):
        Starting(plan, None, spawner("killed-loading")).wait()


@pytest.mark.parametrize("ends_late", [False, True], ids=["at once", "after its channel closed"])
def test_the_peers_of_a_dead_rank_are_told(plan: LaunchPlan, ends_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    starting = Starting(plan, None, spawner("good"))
    executor = starting.wait()
    marked: list[int] = []
    monkeypatch.setattr(starting._watch.rendezvous, "mark_dead", marked.append)
    dead = executor.workers[0]
    assert isinstance(dead, WorkerProcess)
    late, fate = iter([None] if ends_late else []), WorkerProcess.fate
    monkeypatch.setattr(WorkerProcess, "fate", lambda own: fate(own) if own is not dead else next(late, fate(own)))
    wake = os.eventfd(0)
    try:
        os.kill(dead.pid, signal.SIGKILL)
        with pytest.raises(PeerError):
            executor.wait(wake)
        assert set(marked) == {0}
    finally:
        os.close(wake)
        executor.close()


def test_settings_that_differ_are_shown_field_by_field(plan: LaunchPlan) -> None:
    with pytest.raises(ConfigError) as caught:
        Starting(plan, None, spawner("other-torch")).wait()
    assert caught.value.exit_code == 78
    first, *lines = str(caught.value).split("\n  ")
    assert first == "ranks do not have the same settings" and len(lines) == 2
    assert lines[0].startswith("checkpoint: rank 0 (dp 0) has ") and lines[0].endswith("rank 1 (dp 1) has feed")
    assert lines[1].startswith("torch: rank 0 (dp 0) has ") and lines[1].endswith("rank 1 (dp 1) has 1.0")


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("other-world", r"reported as rank 1 of 3; it was started as rank 1 of 2"),
        ("other-rank", r"reported as rank 0 of 2; it was started as rank 1 of 2"),
        ("joins-twice", r"reported again as rank 1 of 2"),
    ],
)
def test_a_process_that_is_not_the_rank_it_should_be_is_refused(plan: LaunchPlan, behaviour: str, said: str) -> None:
    with pytest.raises(PeerError, match=rf"rank 1 \(dp 1\) pid \d+ {said}"):
        Starting(plan, None, spawner(behaviour)).wait()


def test_every_rank_reports_where_it_is(plan: LaunchPlan) -> None:
    starting = Starting(plan, None, spawner("good"))
    assert [report.phase for report in starting.reports()] == ["spawn", "spawn"]
    executor = starting.wait()
    try:
        reports = starting.reports()
        assert [report.pid for report in reports] == [worker.pid for worker in executor.workers]
        assert [report.coordinates["dp"] for report in reports] == [0, 1]
        assert {report.phase for report in reports} == {"ready"}
        assert {report.host for report in reports} == {os.uname().nodename}
        assert {report.device for report in reports} == {"cpu"}
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("phase_limit", "option"), [({"load_limit": 0.4}, "--load-limit"), ({"join_limit": 0.001}, "--join-limit")]
)
def test_a_late_rank_is_named_with_the_option(plan: LaunchPlan, phase_limit: dict[str, Any], option: str) -> None:
    hurried = replace(plan, limits=ProcessLimits(**phase_limit))
    with pytest.raises(PeerError, match=rf"no answer to start-up, phase \w+ \({option}\) within .* from rank"):
        Starting(hurried, None, spawner("stuck-loading")).wait()


def test_the_step_limit_follows_what_steps_took() -> None:
    clock = StepClock()
    assert clock.limit(1) == 300, "nothing is known yet"
    clock.took(1, 0.1)
    assert clock.limit(1) == 30, "the floor"
    assert clock.limit(2048) == 300, "up to the ceiling: 2048 rows may take 2048 times as long"
    clock.took(2048, 3.0)
    assert clock.limit(2048) == 60 and clock.limit(4096) == 120
    assert clock.limit(64) == 60, "64 rows take no longer than 2048"
    for _ in range(1000):
        clock.took(2048, 0.1)
    assert clock.limit(2048) == 30, "an old slow step is forgotten"
    assert StepClock(5.0).limit(10_000) == 5.0


@pytest.mark.parametrize(
    "wrong",
    [{"step_limit": 0.0}, {"step_limit": float("nan")}, {"load_limit": -1.0}, {"drain_timeout": float("inf")}],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ProcessLimits(**wrong)
