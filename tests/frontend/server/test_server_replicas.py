"""One front end over several engines, without ranks: bounds, labels, prefixes, and streams that no replica may run."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.frontend.server.conftest import LONGEST, Running, Start
from tests.frontend.server.test_server_life import LONG
from tests.support.fakes.fake_executor import ScriptedExecutor
from tests.support.tiny_chat import CONFIG, END
from tests.support.waiting import PATIENCE_S, until
from weft.base.deaths import Death
from weft.base.errors import PeerError, RequestError
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.frontend.serving.engine_loop import WakeableExecutor
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.replicas import Replicas
from weft.frontend.serving.stream import BegunAgain
from weft.runtime.ipc.report import RankReport


class AgainAndAgain:
    """A start whose ranks begin anew each time; `engines`: all that there were."""

    def __init__(self, script: list[int]) -> None:
        self._script = script
        self.engines: list[Engine] = []
        self.executor = ScriptedExecutor(script, step_s=0.002)

    def __call__(self) -> tuple[Engine, WakeableExecutor]:
        self.executor = ScriptedExecutor(self._script, step_s=0.002)
        config = EngineConfig(max_model_len=LONGEST, max_num_seqs=4, block_size=16)
        self.engines.append(Engine(self.executor, config, [END], vocab_size=CONFIG["vocab_size"]))
        return self.engines[-1], self.executor

    def cancel(self) -> None:
        """Nothing to end."""

    def lacking(self) -> str:
        return ""

    def reports(self) -> list[RankReport]:
        """No ranks."""
        return []


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


def test_any_deaths_lose_no_request_in_silence() -> None:
    """Three replicas that die at random: every stream ends once, whole or with its reason, and nothing is left open."""
    draw, script = random.Random(random.getrandbits(32)), [7, 8, 9]
    starts = [AgainAndAgain(script) for _ in range(3)]
    ended = Counter[str]()

    async def read(engines: Replicas, number: int) -> None:
        length = draw.randrange(1, 30)
        params = SamplingParams(max_tokens=length, n=1 + number % 2, ignore_eos=True)
        shared = [number % 5] * 32
        whole = bool(number % 3)
        while True:
            try:
                stream = engines.submit(f"request {number}", [[*shared, number, 1 + number]], params, whole=whole)
                break
            except RequestError as error:
                assert error.status in (429, 503)
                await asyncio.sleep(0.01)
        tokens: dict[int, list[int]] = {}
        reason = "whole"
        try:
            while stream.open_outputs or stream.stirred:
                try:
                    for choice, record in await stream.next():
                        tokens.setdefault(choice, []).extend(record.new_token_ids)
                except BegunAgain:
                    assert whole
                    tokens = {}
        except RequestError as error:
            reason = str(error.code)
        else:
            wanted = [script[place % 3] for place in range(length)]
            assert tokens == dict.fromkeys(range(params.n), wanted)
        finally:
            engines.close_stream(stream)
        ended[reason] += 1

    async def kill(engines: Replicas) -> None:
        while True:
            await asyncio.sleep(draw.random() * 0.1)
            draw.choice(starts).executor.fail_at = 0

    async def main() -> None:
        engines = Replicas(starts, max_queued=6, recovery=AtOnce)
        engines.launch()
        killer = asyncio.create_task(kill(engines))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(read(engines, number) for number in range(150)))
        killer.cancel()
        assert engines.open_outputs == 0 and engines.restarts > 0
        for start in starts:  # the last to have been killed are there again
            start.executor.fail_at = None
        async with asyncio.timeout(PATIENCE_S):
            while not all(loop.serving for loop in engines.loops) or any(
                loop.engine is None or loop.engine.stats().total.blocks_used for loop in engines.loops
            ):
                await asyncio.sleep(0.01)
        assert [engines._placement._router.load(replica) for replica in range(3)] == [0, 0, 0]
        assert not engines._parked and not engines._open
        engines.stop()
        async with asyncio.timeout(PATIENCE_S):
            await engines.ended.wait()
        engines.join()

    asyncio.run(main())
    assert ended.total() == 150 and ended["whole"] > 0
    assert set(ended) <= {"whole", "engine_restarted", "request_quarantined"}, ended


def test_a_defect_in_one_engine_is_that_replicas_alone(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server("abc", replicas=2)
    try:
        monkeypatch.setattr(server.executors[0], "step", lambda plan: 1 / 0)
        assert post(server, {"max_tokens": 5})[0] == 200, "it had given nothing, and runs elsewhere"
        until(lambda: [loop.status for loop in server.engines.loops] == ["stopped", "ready"])
        assert post(server, {"max_tokens": 5})[0] == 200 and server.http.get("/ready").status_code == 200
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
        server.executors[0].fail_at, server.executors[0].death = 3, Death.CRASH
        assert post(server, {"prompt": "suspect", "timeout": 1.0})[0] == 504
        until(lambda: [loop.status for loop in server.engines.loops] == ["restarting", "ready"])
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
        until(lambda: [loop.status for loop in server.engines.loops] == ["stopped", "ready"])
        server.executors[1].fail_at = 1
        status, body = post(server, {"prompt": "the last"})
        assert status == 500 and body["error"]["code"] == "engine_failed"
        server.thread.join(60)
        assert isinstance(server.engines.failure, PeerError)
    finally:
        server.stop()
