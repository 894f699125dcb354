"""Faults inside collectives, in real ranks over both backends: which rank is named, with which collective."""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.native_libraries import need
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import PATIENCE_S
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.comm.backend import Rendezvous
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.start import Starting

ROOT = Path(__file__).resolve().parents[2]
STEP_LIMIT_S = 10.0
IN_STEPS = 40
"""Warm-up has fewer collectives than this, a request of 30 tokens more."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def stranger(port: int, number: int) -> socket.socket:
    """A process of this machine that connects to the ranks' meeting point: sends nothing, nonsense, or far too much."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    with suppress(OSError):
        sock.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096)[number % 3])
    return sock


def port_of(meeting: Rendezvous) -> int:
    """The port on which gloo's ranks meet."""
    with socket.socket(fileno=os.dup(meeting.fds(0)[0])) as listening:
        return int(listening.getsockname()[1])


def failure(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    comm: str,
    *,
    debug: bool = False,
    limit_s: float = STEP_LIMIT_S,
) -> str:
    """What ends a request of 30 tokens, which must happen soon after the step limit at the latest.

    With gloo, which meets at a port, unknown processes connect too: they must change nothing.
    """
    need(*(["comm"] if comm == "shared_memory" else []))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WEFT_TEST_FAULTS", "1")
    monkeypatch.setenv("WEFT_FAULT", fault)
    limits = ProcessLimits(step_limit=limit_s, comm_debug=debug)
    layout = resolve({"attention.tp": 2})
    plan = plan_launch(open_checkpoint(model), layout, EngineConfig(kv_cache_memory=1 << 20), comm, limits=limits)
    starting = Starting(plan)
    port = port_of(starting._watch.rendezvous) if comm == "gloo" else 0
    executor = starting.wait()
    strangers = [stranger(port, number) for number in range(200)] if port else []
    try:
        engine = Engine(executor, plan.engine, plan.eos_token_ids)
        engine.add_request("r", [1, 2, 3], SamplingParams(max_tokens=30, ignore_eos=True))
        while engine.has_work and engine.failure is None:
            began = time.monotonic()
            engine.step()
        assert time.monotonic() - began <= limit_s + PATIENCE_S
        if engine.failure is None:
            return "nothing"
    finally:
        executor.close()
        for one in strangers:
            one.close()
    workers: Any = executor.workers
    assert all(worker.process.poll() for worker in workers), "every rank ends with an exit code not 0"
    return engine.failure


@pytest.mark.parametrize("comm", ["shared_memory", "gloo"])
def test_a_rank_killed_before_a_collective_is_named_with_its_last(
    model: Path, monkeypatch: pytest.MonkeyPatch, comm: str
) -> None:
    said = failure(model, monkeypatch, f"collective:1:{IN_STEPS}:kill", comm)
    assert "rank 1 (tp 1) pid" in said and "was killed by SIGKILL in phase serving, in step" in said
    assert "rank 1 has left" in said and "over (0, 1), call " in said


@pytest.mark.long
@pytest.mark.parametrize("comm", ["shared_memory", "gloo"])
def test_a_rank_stopped_before_a_collective_is_named_with_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, comm: str
) -> None:
    said = failure(model, monkeypatch, f"collective:1:{IN_STEPS}:stop", comm)
    assert "rank 1 (tp 1) pid" in said and "is suspended (SIGSTOP)" in said
    of_module = r" of \w+\.\w+" if comm == "shared_memory" else ""  # nothing ends a wait of gloo, whose rank says more
    assert re.search(rf"rank 1 \(tp 1\) has not come to \w+{of_module} over .* where rank 0 waits", said)
    assert "rank 0 has been for" in said, "what every rank is doing"


@pytest.mark.parametrize("comm", [pytest.param("shared_memory", marks=pytest.mark.long), "gloo"])
def test_ranks_that_do_not_agree_are_named(model: Path, monkeypatch: pytest.MonkeyPatch, comm: str) -> None:
    said = failure(model, monkeypatch, f"collective:1:{IN_STEPS}:wrong-shape", comm, debug=True)
    assert "disagree" in said and "rank 0: call" in said and "rank 1: call" in said


@pytest.mark.parametrize("comm", ["shared_memory"])
def test_a_rank_that_skips_a_collective_is_named(model: Path, monkeypatch: pytest.MonkeyPatch, comm: str) -> None:
    """At once where the next call of its is another one, else after the step limit."""
    said = failure(model, monkeypatch, f"collective:1:{IN_STEPS}:skip-collective", comm, limit_s=STEP_LIMIT_S / 2)
    assert re.search(r"disagree .* \(in \w+\.\w+\)|rank 1 \(tp 1\) has not come to \w+ of \w+\.\w+ ", said)
    assert "rank 0" in said and "over (0, 1)" in said


@pytest.mark.long
def test_a_delay_within_the_limit_is_no_fault(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(model, monkeypatch, f"collective:1:{IN_STEPS}:delay=1", "auto") == "nothing"


@pytest.mark.long
def test_an_error_in_a_rank_is_told_and_not_its_consequences(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = failure(model, monkeypatch, f"collective:1:{IN_STEPS}:raise", "auto")
    assert "rank 1 (tp 1) pid" in said and "RuntimeError: a fault on purpose at collective" in said
