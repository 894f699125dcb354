"""Ranks that lend each other their cores give the bits that they give alone, and say for how long they lent them."""

from __future__ import annotations

import pytest

from tests.support.native_libraries import need
from weft.checkpoint import embedded_model, open_checkpoint
from weft.engine.engine import Engine
from weft.launch.cores import available_cores
from weft.launch.plan import plan_launch
from weft.launch.start import Starting
from weft.layout.resolve import resolve
from weft.settings import EngineConfig
from weft.step.sampling_params import SamplingParams

Answer = list[tuple[int, float]]


def answers(lend_cores: bool) -> tuple[dict[str, Answer], list[float]]:
    """Tokens with their logprobs, in bf16; seconds that each rank has lent its core."""
    config = EngineConfig(max_model_len=1024, max_num_seqs=4, kv_cache_memory=64 << 20, lend_cores=lend_cores)
    layout = resolve({"attention.split": "groups"}, tp=2)  # six and three heads: one rank waits for the other
    starting = Starting(plan_launch(open_checkpoint(embedded_model(print)), layout, config, "shared_memory", ()))
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
        return found, [report.lent_s for report in starting.reports()]
    finally:
        executor.close()


@pytest.mark.skipif(len(available_cores()) < 2, reason="two ranks have no core of their own here")
def test_lent_cores_change_no_bit() -> None:
    need("comm", "step")
    lent, seconds = answers(True)
    assert [len(answer) for answer in lent.values()] == [24] * 3
    assert max(seconds) > 0, "no core was lent"
    assert answers(False) == (lent, [0.0, 0.0])
