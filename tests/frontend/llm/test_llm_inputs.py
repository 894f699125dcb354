"""What callers of the Python API may hand in by mistake: a sentence for each, before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from weft.base.errors import ConfigError, RequestError
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams, check
from weft.engine.core.admission import Admission
from weft.engine.core.limits import Limits
from weft.frontend.llm_inputs import as_conversations, as_engine_config, as_given, as_prompts
from weft.parallel.layout.resolve import resolve

LIMITS = Limits(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16, block_size=4, num_blocks=8)


def build(ids: Any) -> list[int]:
    (request,) = Admission(LIMITS, frozenset(), 100, 0).build("r", ids, SamplingParams(), 0, 0)
    return request.token_ids


@pytest.mark.parametrize("ids", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), torch.tensor([1, 2, 3])])
def test_whole_numbers_of_any_type_are_ids(ids: Any) -> None:
    assert build(ids) == [1, 2, 3] and all(type(token) is int for token in build(ids))


@pytest.mark.parametrize("ids", [[1.5], [True], ["a"], [None], [[1]], [torch.tensor([1, 2])], [np.float64(2.0)]])
def test_anything_else_is_refused(ids: Any) -> None:
    with pytest.raises(RequestError, match="whole numbers"):
        build(ids)


def test_prompts() -> None:
    array: Any = np.array([1, 2])
    wrongs: Any = (None, 5, b"ab", {"a": 1}, ["ab", 5], [{"prompt_token_ids": [1]}])
    mixed: Any = ["ab", [1, 2]]
    assert as_prompts("ab") == ["ab"] and as_prompts(mixed) == mixed
    assert as_prompts([1, 2]) == [[1, 2]] and list(as_prompts(array)[0]) == [1, 2]
    for wrong in wrongs:
        with pytest.raises(RequestError):
            as_prompts(wrong)


def test_conversations() -> None:
    message = {"role": "user", "content": "hi"}
    assert as_conversations([message]) == [[message]] and len(as_conversations([[message], [message]])) == 2
    wrongs: Any = ("hi", message, [{"role": "user"}], [{"content": "x"}], [["hi"]], ["hi", "you"], 5)
    for wrong in wrongs:
        with pytest.raises(RequestError):
            as_conversations(wrong)


def test_other_forms_of_sampling_params() -> None:
    given: Any = {"stop": "x", "stop_token_ids": [3], "logit_bias": {5: 1.0}}
    params = SamplingParams(**given)
    check(params, 100)
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (("x",), (3,), ((5, 1.0),))


@pytest.mark.parametrize(
    "wrong", [{"ignore_eos": 1}, {"stop": 5}, {"logit_bias": [3]}, {"logit_bias": 3}, {"skip_special_tokens": "no"}]
)
def test_wrong_types_of_sampling_params_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        check(SamplingParams(**wrong), 100)


def test_layouts_and_engine_options() -> None:
    assert resolve(as_given({"attention": {"tp": 2}})).attention.tp == 2
    with pytest.raises(ConfigError, match="layout 5"):
        as_given(5)  # type: ignore[arg-type]
    assert as_engine_config(None, {"kv_cache_memory": "4MiB"}).kv_cache_memory == 4 * 2**20
    with pytest.raises(ConfigError, match="such as 2GiB"):
        as_engine_config(None, {"kv_cache_memory": "much"})
    with pytest.raises(ConfigError, match="both set"):
        as_engine_config(EngineConfig(), {"seed": 1})
