"""An allocation that fails in a step, in real ranks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.frontend.server.test_serve_command import Served, weft
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("memory") / "tiny")


def test_a_failed_allocation_in_a_step_costs_no_answer(model: Path) -> None:
    """The rank ends with what failed, its replica starts again, and every request in flight is answered."""
    faults = {"WEFT_TEST_FAULTS": "1", "WEFT_FAULT": "step:0:8:no-memory"}
    served = Served(weft("serve", str(model), "--port", "0", env=os.environ | faults))
    try:
        served.wait_ready()
        with httpx.Client(base_url=served.url, timeout=240) as http, ThreadPoolExecutor(3) as pool:
            body = {"max_tokens": 30, "ignore_eos": True, "temperature": 0}
            ends = [pool.submit(http.post, "/v1/completions", json=body | {"prompt": text}) for text in "abc"]
            answers = [end.result(240) for end in ends]
            assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
            assert all(answer.json()["usage"]["completion_tokens"] == 30 for answer in answers)
            until(lambda: http.get("/ready").json()["status"] == "ready")
            assert http.get("/ready").json()["restarts"] == 1
        assert "the system gives the rank no memory (a failed allocation on purpose at step); lower" in served.text
        assert "Traceback" not in served.text
    finally:
        served.process.terminate()
        assert served.end() == 0, served.text
        served.close()
