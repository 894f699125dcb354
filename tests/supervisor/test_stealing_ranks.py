"""Ranks that steal each other's work give the bits that they give alone, and say for how long they stole."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import count

import pytest

from tests.support.native_libraries import need
from weft.checkpoint import embedded_model, open_checkpoint
from weft.engine.engine import Engine
from weft.errors import PeerError
from weft.launch_plan.plan import plan_launch
from weft.layout.resolve import resolve
from weft.machine.cores import available_cores
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams
from weft.supervisor.start import Starting

Answer = list[tuple[int, float]]


def started(steal_work: bool) -> Starting:
    """Two ranks of six and three heads: one waits for the other."""
    config = EngineConfig(max_model_len=1024, max_num_seqs=4, kv_cache_memory=64 << 20, steal_work=steal_work)
    layout = resolve({"attention.split": "groups"}, tp=2)
    return Starting(plan_launch(open_checkpoint(embedded_model(print)), layout, config, "shared_memory"))


def answers(steal_work: bool) -> tuple[dict[str, Answer], list[float]]:
    """Tokens with their logprobs, in bf16; seconds for which each rank ran stolen units."""
    starting = started(steal_work)
    executor = starting.wait()
    try:
        engine, found = Engine(executor, starting.plan.engine, ()), dict[str, Answer]()
        for length in (300, 40, 1):
            ids = [(7919 * length + 31 * place) % 49_000 for place in range(length)]
            params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=1)
            engine.add_request(str(length), ids, params)
            found[str(length)] = []
        while engine.has_work:
            for output in engine.step():
                found[output.request_id] += [(each.token_id, each.logprob) for each in output.logprobs]
        return found, [report.steal_s for report in starting.reports()]
    finally:
        executor.close()


TWO_CORES = pytest.mark.skipif(len(available_cores()) < 2, reason="two ranks have no core of their own here")


@TWO_CORES
def test_work_stealing_changes_no_bit() -> None:
    need("comm", "step")
    stealing, seconds = answers(True)
    assert [len(answer) for answer in stealing.values()] == [24] * 3
    assert max(seconds) > 0, "no unit was stolen"
    assert answers(False) == (stealing, [0.0, 0.0])


@TWO_CORES
def test_a_rank_that_dies_with_work_of_another_in_hand_is_named() -> None:
    """Killed soon after it has stolen work, while prompts are read: what it had taken is never done."""
    need("comm", "step")
    starting = started(True)
    executor = starting.wait()
    helper = executor.workers[1]

    def kill() -> None:
        while not starting.reports()[1].steal_s:
            time.sleep(0.001)
        time.sleep(0.05)
        os.kill(helper.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    try:
        engine, params = Engine(executor, starting.plan.engine, ()), SamplingParams(max_tokens=1)
        killing.start()
        with pytest.raises(PeerError, match=r"rank 1 .* was killed by SIGKILL"):
            for number in count():
                engine.add_request(str(number), [(31 * place + number) % 49_000 for place in range(1000)], params)
                engine.step()
    finally:
        killing.join()
        executor.close()
