"""One front end over several engines, without ranks: bounds, labels, prefixes, and streams that no replica may run."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Running, Start
from tests.server.test_server_life import LONG
from tests.support.waiting import until
from weft.errors import PeerError
from weft.server.recovery import Recovery


class AtOnce(Recovery):
    """Never waits, never gives up."""

    def delay(self, error: BaseException, lived_s: float) -> float:
        return 0.0


def post(server: Running, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = server.http.post("/v1/completions", json=LONG | body)
    return answer.status_code, answer.json()


def test_the_queue_is_the_servers(start_server: Start) -> None:
    """Two replicas of one slot, and a line of one: three requests are in, the fourth is one too many."""
    server = start_server("abc", max_num_seqs=1, max_queued=1, replicas=2)
    try:
        for executor in server.executors:
            executor.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            sent = [pool.submit(post, server, {"prompt": f"{number}", "max_tokens": 3}) for number in range(3)]
            until(lambda: server.engines.open_outputs == 3)
            status, body = post(server, {})
            assert status == 429 and body["error"]["code"] == "queue_full" and "at most 3" in body["error"]["message"]
            for executor in server.executors:
                executor.gate.set()
            assert [answer.result(60)[0] for answer in sent] == [200] * 3
        assert min(executor.steps for executor in server.executors) > 0
    finally:
        server.stop()


def test_labels_count_attention_groups_through_all_replicas(start_server: Start) -> None:
    server = start_server("abc", dp=2, replicas=2)
    try:
        with ThreadPoolExecutor(8) as pool:
            bodies = [{"prompt": f"number {number}", "max_tokens": 150} for number in range(8)]
            assert [status for status, _ in pool.map(post, [server] * 8, bodies)] == [200] * 8
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(server.http.get("/metrics").text):
            for sample in family.samples:
                if "engine" in sample.labels and "le" not in sample.labels:
                    at = sample.labels["engine"]
                    found.setdefault(sample.name, {}).setdefault(at, 0.0)
                    found[sample.name][at] += sample.value
        assert set(found["vllm:generation_tokens_total"]) == {"0", "1", "2", "3"}
        assert sum(found["vllm:generation_tokens_total"].values()) == 8 * 150
        for name in ("vllm:cache_config_info", "vllm:e2e_request_latency_seconds_count"):
            assert set(found[name]) == {"0", "2"}, "what is known of a whole replica has its first group's label"
        assert sum(found["vllm:e2e_request_latency_seconds_count"].values()) == 8
        assert sum(found["vllm:request_success_total"].values()) == 8
        assert sum(found["vllm:iteration_tokens_total_sum"].values()) == sum(
            loop.engine.stats().rows for loop in server.engines.loops if loop.engine is not None
        )
    finally:
        server.stop()


def test_prompts_go_where_their_prefix_is(start_server: Start) -> None:
    server = start_server("abc", replicas=2)
    try:
        texts = [f"{name} was there first, and it stayed where it was: " for name in "AB"]
        for turn in range(5):
            for text in texts:
                _, body = post(server, {"prompt": text + "x" * turn, "max_tokens": 1})
                cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
                assert cached == 0 if turn == 0 else cached >= len(text) // 16 * 16
        counts = [loop.engine.stats().total.finished for loop in server.engines.loops if loop.engine is not None]
        assert counts == [5, 5]
    finally:
        server.stop()


def test_a_request_that_was_running_at_a_death_waits_for_its_own_replica_until_its_deadline(
    start_server: Start,
) -> None:
    """The replica does not come back here; what is sent anew and asks for the same waits too, all else is answered."""
    server = start_server("abc", replicas=2, recovery=AtOnce, step_s=0.01)
    try:
        server.executors[0].fail_at = 3
        assert post(server, {"prompt": "suspect", "timeout": 1.0})[0] == 504
        assert [loop.status for loop in server.engines.loops] == ["restarting", "ready"]
        status, body = post(server, {"prompt": "suspect", "timeout": 0.3})
        assert status == 504 and body["error"]["code"] == "deadline_exceeded"
        assert post(server, {"prompt": "another", "max_tokens": 5})[0] == 200
        assert server.engines.open_outputs == 0
    finally:
        server.stop()


@pytest.mark.parametrize("stream", [True, False])
def test_without_restarts_a_request_runs_once_more_elsewhere(start_server: Start, stream: bool) -> None:
    server = start_server("abc", replicas=2)
    try:
        server.executors[0].fail_at = 1
        answer = server.http.post("/v1/completions", json=LONG | {"stream": stream, "max_tokens": 5})
        texts = re.findall(r'"text":"(\w*)"', answer.text)
        assert answer.status_code == 200 and "".join(texts).startswith("abc")
        assert [loop.status for loop in server.engines.loops] == ["stopped", "ready"]
        server.executors[1].fail_at = 1
        status, body = post(server, {"prompt": "the last"})
        assert status == 500 and body["error"]["code"] == "engine_failed"
        server.thread.join(20)
        assert isinstance(server.engines.failure, PeerError)
    finally:
        server.stop()
