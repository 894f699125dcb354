"""Ten times as many requests as a server can run, and clocks that jump by an hour."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import weft
from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import until
from weft.base.step.plan import StepPlan, StepResult

SLOTS, QUEUED, CLIENTS, EACH = 2, 2, 40, 6
ASK: dict[str, Any] = {"prompt": "x", "max_tokens": 24, "ignore_eos": True}


def outputs_of_steps(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Outputs of each step that ran while a request waited in the engine."""
    found: list[int] = []
    step = server.executor.step

    def noted(plan: StepPlan) -> StepResult:  # in the engine's thread, which no request enters meanwhile
        if server.engine.stats().total.waiting:
            found.append(sum(len(group.every_run()) for group in plan.groups))
        return step(plan)

    monkeypatch.setattr(server.executor, "step", noted)
    return found


def test_ten_times_overload(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 clients for 4 places: what is refused is refused at once, what is accepted is answered, steps stay full, and
    afterwards all is as before."""
    server = start_server("abcdefgh", max_num_seqs=SLOTS, max_queued=QUEUED, step_s=0.002)
    statuses, lock = Counter[int](), threading.Lock()
    outputs = outputs_of_steps(server, monkeypatch)

    def client(_: int) -> None:
        with httpx.Client(base_url=server.url, timeout=120) as http:
            for _ in range(EACH):
                answer = http.post("/v1/completions", json=ASK)
                with lock:
                    statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    assert answer.headers["retry-after"] and answer.json()["error"]["code"] == "queue_full"
                    time.sleep(0.02)
                else:
                    assert answer.json()["usage"]["completion_tokens"] == ASK["max_tokens"]

    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
        assert statuses.keys() == {200, 429} and sum(statuses.values()) == CLIENTS * EACH
        total, steps = server.engine.stats().total, server.executor.steps
        assert total.generated_tokens == statuses[200] * ASK["max_tokens"]
        assert outputs and {*outputs} == {SLOTS}, "steps were not full"
        assert server.engines.open_outputs == 0 and total.blocks_used == 0
        assert server.http.post("/v1/completions", json=ASK).status_code == 200
        assert server.executor.steps <= steps + ASK["max_tokens"] + 2
    finally:
        server.stop()


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0], ids=["forward", "back"])
def test_a_clock_that_jumps_changes_created_only(
    start_server: Start, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """While a request waits for its first step, with a limit of its own: no limit fires, no metric is negative."""
    server = start_server("abc", max_num_seqs=1)
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    body = ASK | {"timeout": 60}
    try:
        server.executor.gate.clear()
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(server.http.post, "/v1/completions", json=body) for _ in range(2)]
            until(lambda: server.engines.open_outputs == 2)
            offset[0] = jump_s
            server.executor.gate.set()
            answers = [end.result(60) for end in ends]
        later = server.http.post("/v1/completions", json=body).json()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert abs(later["created"] - answers[0].json()["created"] - jump_s) < 120
        page = server.http.get("/metrics").text
        for family in text_string_to_metric_families(page):
            assert all(sample.value >= 0 for sample in family.samples), family.name
        assert server.http.get("/ready").json()["status"] == "ready"
    finally:
        server.stop()


CALENDAR = {
    "frontend/server/app.py", "cli/commands/serve.py", "tools/bench/document.py", "engine/text/chat_template.py",
    "model/checkpoint/integrity/digest_cache.py", "frontend/server/responses/form.py", "cli/commands/calibrate.py",
}  # fmt: skip
"""Where the time of day is read: for `created` and `completed_at`, dates in documents and templates, ages of files."""


def test_the_time_of_day_measures_nothing() -> None:
    root = Path(weft.__file__).parent
    reads = re.compile(r"\b(time\.time(_ns)?|datetime\.now)\(")
    assert {str(path.relative_to(root)) for path in root.rglob("*.py") if reads.search(path.read_text())} == CALENDAR
