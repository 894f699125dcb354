"""Processes of ranks: started, watched, named when they fail, ended with their parent. The ranks here have no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fakes.fake_group import spawner
from tests.support.fakes.fake_rank import LETTERS
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import alive, children, wait_gone
from weft.base.errors import CheckpointError, PeerError, WeftError
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupPlan, ScheduledRequest, StepPlan
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.phases import Phase, PhaseChange
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.executor import ProcessExecutor
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Starting

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plan(model: Path) -> LaunchPlan:
    layout = resolve({"attention.tp": 1, "attention.dp": 2, "dense.tp": 2})
    return plan_launch(open_checkpoint(model), layout, EngineConfig(kv_cache_memory=1 << 20))


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No child and no descriptor survives a test. Children that other files keep for their session are not counted."""
    before, descriptors = set(children(os.getpid())), set(os.listdir("/proc/self/fd"))
    yield
    assert set(children(os.getpid())) <= before
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)


def step(index: int) -> StepPlan:
    run = ScheduledRequest(slot=3, start=index, count=1, ids=[1], blocks=[1], sample=True, output_pos=index)
    return StepPlan(index, [GroupPlan([], [run]), GroupPlan([], [])])


def run_until_it_fails(executor: ProcessExecutor) -> WeftError:
    try:
        for index in range(10):
            executor.step(step(index))
    except WeftError as error:
        return error
    finally:
        executor.close()
    pytest.fail("ten steps went well")


def test_steps_go_to_all_ranks_and_first_ranks_answer(plan: LaunchPlan) -> None:
    seen: list[PhaseChange] = []
    executor = Starting(plan, seen.append, spawner("good")).wait()
    try:
        assert plan.memory is not None and executor.num_blocks == plan.memory.num_blocks
        for index in range(5):
            result = executor.step(step(index))
            assert result.index == index
            assert [[s.token_id for s in group.runs] for group in result.groups] == [[LETTERS + 3 + index], []]
    finally:
        executor.close()
    executor.close()
    for rank in range(2):
        assert [change.phase for change in seen if change.rank == rank] == list(Phase)
    assert seen[0].where == "rank 0 (dp 0)"


def test_a_killed_rank_is_named(plan: LaunchPlan) -> None:
    error = run_until_it_fails(Starting(plan, None, spawner("killed")).wait())
    assert isinstance(error, PeerError)
    assert "rank 1 (dp 1) pid " in str(error)
    assert "was killed by SIGKILL in phase serving, in step 3" in str(error)


def test_a_rank_that_raises_is_named_with_its_error(plan: LaunchPlan) -> None:
    error = run_until_it_fails(Starting(plan, None, spawner("raises")).wait())
    assert "rank 1 (dp 1) pid " in str(error)
    assert "ZeroDivisionError: division by zero" in str(error)


def test_a_frame_that_is_no_message_ends_the_group(plan: LaunchPlan) -> None:
    error = run_until_it_fails(Starting(plan, None, spawner("garbage")).wait())
    assert isinstance(error, PeerError)
    assert "no message" in str(error)


def test_a_suspended_rank_is_named_after_the_step_limit(plan: LaunchPlan) -> None:
    executor = Starting(plan, None, spawner("stopped")).wait()
    executor.clock.fixed = 2.0
    error = run_until_it_fails(executor)
    assert isinstance(error, PeerError)
    assert "rank 1 (dp 1) pid" in str(error)
    assert "is suspended (SIGSTOP)" in str(error)


def test_bad_weights_are_reported_by_the_rank_that_found_them(plan: LaunchPlan) -> None:
    with pytest.raises(CheckpointError) as caught:
        Starting(plan, None, spawner("bad-weights")).wait()
    assert caught.value.problems == ("a.safetensors: t: wanted 1, got 2",)
    assert "rank 1 (dp 1)" in str(caught.value)


def test_a_rank_late_in_a_phase_is_named_with_it(plan: LaunchPlan) -> None:
    hurried = replace(plan, limits=ProcessLimits(load_limit=3.0))
    with pytest.raises(PeerError, match=r"no answer to start-up, phase load \(--load-limit\) within 3 s from rank 1"):
        Starting(hurried, None, spawner("stuck-loading")).wait()


def test_a_program_that_cannot_run_is_named(plan: LaunchPlan) -> None:
    with pytest.raises(PeerError, match=r"rank \d \(dp \d\) pid \d+ ended with exit code 3 in phase spawn"):
        Starting(plan, None, Spawner((sys.executable, "-c", "import sys; sys.exit(3)"))).wait()


def test_idle_waiting_notices_a_death(plan: LaunchPlan) -> None:
    executor = Starting(plan, None, spawner("good")).wait()
    wake = os.eventfd(0)
    try:
        os.kill(executor.workers[0].pid, signal.SIGTERM)
        with pytest.raises(PeerError, match=r"rank 0 \(dp 0\) pid \d+ was killed by SIGTERM"):
            executor.wait(wake)
    finally:
        os.close(wake)
        executor.close()


def test_idle_waiting_ends_when_woken(plan: LaunchPlan) -> None:
    executor = Starting(plan, None, spawner("good")).wait()
    wake = os.eventfd(1)
    try:
        executor.wait(wake)
    finally:
        os.close(wake)
        executor.close()


def test_cancelling_a_start_ends_it(plan: LaunchPlan) -> None:
    starting = Starting(plan, None, spawner("stuck-loading"))
    starting.cancel()
    with pytest.raises(PeerError, match="was killed by SIGKILL"):
        starting.wait()


PARENT = """
import sys, threading, time
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Starting
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.base.settings import EngineConfig
spawner = Spawner((sys.executable, "-m", "tests.support.fakes.fake_rank", "good"))
plan = plan_launch(open_checkpoint(sys.argv[1]), resolve({"attention.dp": 2}), EngineConfig(kv_cache_memory=1 << 20))
def start():
    global executor
    executor = Starting(plan, None, spawner).wait()
    print(*(worker.pid for worker in executor.workers), flush=True)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
time.sleep(600)
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_ranks_end_with_a_killed_parent(model: Path, where: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(model), where], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.2)
        assert all(map(alive, pids)), "a rank must outlive the thread that started it"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_gone(pids)
