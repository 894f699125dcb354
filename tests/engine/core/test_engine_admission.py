"""What an engine takes in, what it refuses with which numbers, and the seeds it gives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.engine.core.paged_fake import PagedFake
from weft.base.errors import ConfigError, RequestError
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.limits import limits_of
from weft.engine.core.seeds import derive_seed, output_seed

CONFIG = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, block_size=4, seed=5)


def engine_with(num_blocks: int = 100, vocab_size: int | None = None, config: EngineConfig = CONFIG) -> Engine:
    return Engine(PagedFake(config, num_blocks), config, (0,), vocab_size=vocab_size)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens") as caught:
        engine_with().add_request("a", [], SamplingParams())
    assert caught.value.param == "prompt"


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    engine_with().add_request("a", [1] * 63, SamplingParams())
    with pytest.raises(RequestError, match="64 tokens; max_model_len is 64, so at most 63"):
        engine_with().add_request("a", [1] * 64, SamplingParams())


def test_a_prompt_longer_than_the_cache_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match="13 tokens; the KV cache holds 12"):
        engine_with(3).add_request("a", [1] * 13, SamplingParams(max_tokens=1))
    engine_with(3).add_request("a", [1] * 12, SamplingParams(max_tokens=1))


def test_an_answer_that_cannot_fit_the_empty_pool_is_refused_with_both_numbers() -> None:
    engine_with(3).add_request("a", [1] * 8, SamplingParams(max_tokens=5))
    with pytest.raises(RequestError, match="8 tokens and an answer of 6 need 13 .* holds 12; max_tokens can be 5") as e:
        engine_with(3).add_request("a", [1] * 8, SamplingParams(max_tokens=6))
    assert e.value.param == "max_tokens"


def test_without_max_tokens_the_answer_ends_where_the_cache_does() -> None:
    engine = engine_with(3)
    engine.add_request("a", [1] * 8, SamplingParams(max_tokens=None, ignore_eos=True))
    outputs = [output for _ in range(10) for output in engine.step()]
    assert (outputs[-1].finish_reason, outputs[-1].output_tokens) == ("length", 5)
    assert not engine.has_work


def test_nothing_is_left_of_a_refused_request() -> None:
    engine = engine_with(3)
    with pytest.raises(RequestError):
        engine.add_request("a", [1] * 20, SamplingParams())
    assert not engine.has_work and engine.stats().total.prompt_tokens == 0
    engine.add_request("a", [1], SamplingParams(max_tokens=1))


@pytest.mark.parametrize(
    ("prompt", "params", "text"),
    [
        ([1, 50], SamplingParams(), "prompt holds token id 50; legal: 0 to 49"),
        ([-1], SamplingParams(), "prompt holds token id -1; legal: 0 to 49"),
        ([1], SamplingParams(stop_token_ids=(3, 50)), "stop_token_ids .*50.* legal: ids from 0 to 49"),
        ([1], SamplingParams(logit_bias=((50, 1.0),)), "logit_bias .*50.* legal: ids from 0 to 49"),
        ([1], SamplingParams(max_tokens=0), "max_tokens 0: legal: a whole number, 1 or more"),
        ([1], SamplingParams(n=0), "n 0: legal"),
    ],
)
def test_ids_outside_the_vocabulary_and_params_out_of_range_are_refused(
    prompt: list[int], params: SamplingParams, text: str
) -> None:
    engine = engine_with(vocab_size=50)
    with pytest.raises(RequestError, match=text):
        engine.add_request("a", prompt, params)
    assert not engine.has_work


def test_ids_that_are_no_32_bit_numbers_are_refused_without_a_vocabulary() -> None:
    with pytest.raises(RequestError, match="legal: 0 to 2147483647"):
        engine_with().add_request("a", [2**31], SamplingParams())


def test_an_id_can_be_used_again_once_its_end_was_reported() -> None:
    engine = engine_with()
    engine.add_request("a", [1], SamplingParams())
    with pytest.raises(RequestError, match="'a' is running already"):
        engine.add_request("a", [1], SamplingParams())
    engine.abort("a")
    with pytest.raises(RequestError, match="running already"):
        engine.add_request("a", [1], SamplingParams())
    assert [output.finish_reason for output in engine.step()] == ["abort"]
    engine.add_request("a", [1], SamplingParams())


@pytest.mark.parametrize(
    ("changes", "num_blocks", "text"),
    [
        ({"max_model_len": None}, 10, "max_model_len must be decided"),
        ({}, 0, "0 blocks of 4 tokens"),
        ({"max_num_batched_tokens": 3}, 10, "max_num_batched_tokens 3 is below max_num_seqs 4.*legal: 4 or more"),
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, int], num_blocks: int, text: str) -> None:
    fields: Any = {"max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 32, "block_size": 4} | changes
    with pytest.raises(ConfigError, match=text):
        limits_of(EngineConfig(**fields), num_blocks)


def seeds_sent(engine: Engine) -> list[int]:
    """Seeds of all admitted outputs, in the order in which they arrived."""
    assert isinstance(engine.executor, PagedFake)
    engine.executor.plans = []
    while engine.has_work:
        engine.step()
    plans = [msgspec.json.decode(plan, type=StepPlan) for plan in engine.executor.plans]
    return [admit.seed for plan in plans for admit in plan.groups[0].new_requests]


def test_a_users_seed_reaches_the_first_output_unchanged() -> None:
    engine = engine_with()
    engine.add_request("a", [1], SamplingParams(seed=77, n=3))
    assert seeds_sent(engine) == [77, derive_seed(77, 1), derive_seed(77, 2)]


def test_seeds_without_a_users_follow_from_the_engine_and_the_order_of_admission() -> None:
    engine = engine_with()
    for name in "abc":
        engine.add_request(name, [1, 2], SamplingParams())
    assert seeds_sent(engine) == [derive_seed(5, number) for number in range(3)]


def test_seeds_are_distinct_63_bit_numbers() -> None:
    seeds = {
        output_seed(None, engine, admission, index)
        for engine in range(5)
        for admission in range(50)
        for index in range(4)
    }
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)
