"""Short jobs and long ones: neither waits for the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from weft.frontend.text_worker.jobs import LONG_TEXT, Begin, Render, Tokenize
from weft.frontend.text_worker.lanes import NICE, TextWorkers

LIMIT_S = 120
LONG = Tokenize(["ab " * LONG_TEXT], keep=2)
SHORT = Tokenize(["ab"], add_special_tokens=False)


@pytest.fixture(scope="module")
def workers(begin: Begin) -> Iterator[TextWorkers]:
    made = TextWorkers(begin)
    yield made
    made.close()


def test_a_short_job_does_not_wait_for_a_long_one(workers: TextWorkers) -> None:
    assert workers.submit(SHORT).result(LIMIT_S) == [[64, 65]] and workers._long is None
    assert len(workers.submit(LONG).result(LIMIT_S)[0]) == 2
    assert workers._long is not None and workers._long.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, workers._long.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    os.kill(workers._long.pid, signal.SIGSTOP)
    waiting = workers.submit(LONG)
    until(waiting.running)
    assert workers.submit(SHORT).result(LIMIT_S) == [[64, 65]]
    assert workers.submit(Render([{"role": "user", "content": "x"}], template="y")).result(LIMIT_S) == "y"
    assert not waiting.done()
    os.kill(workers._long.pid, signal.SIGCONT)
    assert len(waiting.result(LIMIT_S)[0]) == 2


def test_texts_are_long_together(workers: TextWorkers) -> None:
    assert workers._of(Tokenize(["x" * (LONG_TEXT // 2)] * 2)) is workers._short
    assert workers._of(Tokenize(["x" * LONG_TEXT, "x"])) is workers._long


def test_nothing_is_started_after_the_end(begin: Begin) -> None:
    made = TextWorkers(begin)
    made.close()
    assert made._of(LONG) is made._short and made._long is None
