"""Ranges of sampling parameters: what is legal passes, all else is a RequestError naming field and legal values."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weft.base.errors import RequestError
from weft.base.step.sampling_params import SamplingParams, check, with_logprobs

VOCAB = 100

LEGAL: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0.0, "top_p": 1, "top_k": -1, "min_p": 1.0},
    {"temperature": 50.0, "top_k": 10**9, "seed": -(2**63)},
    {"seed": 2**63 - 1, "max_tokens": None, "min_tokens": 10**6},
    {"presence_penalty": -2, "frequency_penalty": 2.0, "repetition_penalty": 0.01},
    {"max_tokens": 5, "min_tokens": 5, "logprobs": 0, "n": 128},
    {"logprobs": 0, "logprob_token_ids": (0, 99), "cache_salt": "x"},
    {"logprobs": 20, "stop": ("a", "b" * 1024), "stop_token_ids": (0, 99)},
    {"logit_bias": ((0, -100), (99, 100.0))},
)


@pytest.mark.parametrize("fields", LEGAL)
def test_legal_values_pass(fields: dict[str, Any]) -> None:
    check(SamplingParams(**fields), VOCAB)


WRONG: tuple[tuple[str, object, str], ...] = (
    ("priority", 2**31, "a whole number from"),
    ("allowed_token_ids", (), "one or more ids"),
    ("allowed_token_ids", (10**6,), "ids from 0"),
    ("bad_words", (" ",), "words of 1 to"),
    ("bad_words", ("x",) * 129, "at most 128"),
    ("bad_token_ids", ((),), "lists of token ids"),
    ("bad_token_ids", ((-1,),), "ids from 0"),
    ("n", 0, "from 1 to 128"),
    ("n", 129, "from 1 to 128"),
    ("n", 1.5, "whole number"),
    ("n", True, "whole number"),
    ("temperature", -0.1, "from 0 to 1000"),
    ("temperature", math.nan, "from 0 to 1000"),
    ("temperature", math.inf, "from 0 to 1000"),
    ("temperature", "1", "a number"),
    ("temperature", None, "a number"),
    ("top_p", 0.0, "above 0 and to 1"),
    ("top_p", 1.01, "above 0 and to 1"),
    ("top_p", math.nan, "above 0"),
    ("top_k", -2, "-1 or more"),
    ("top_k", 2.0, "whole number"),
    ("top_k", 2**63, "from -2^63 to 2^63 - 1"),
    ("max_tokens", 10**4000, "from -2^63 to 2^63 - 1"),
    ("temperature", 10**400, "from 0 to 1000; whole ones from"),
    ("structured_outputs", 5, "StructuredOutputs, or its fields"),
    ("grammar", "", "a string of 1 to"),
    ("stop", ("\ud800",), "1 to 1024 characters"),
    ("bad_words", ("\ud800",), "1 to 1024 characters"),
    ("cache_salt", "\ud800", "1 to 256 characters"),
    ("stop_token_ids", (10**4000,), "from 0 to 99"),
    ("min_p", -0.01, "from 0 to 1"),
    ("min_p", 1.01, "from 0 to 1"),
    ("presence_penalty", 2.1, "from -2 to 2"),
    ("frequency_penalty", -2.1, "from -2 to 2"),
    ("frequency_penalty", math.nan, "from -2 to 2"),
    ("repetition_penalty", 0.0, "from 0.01 to 100"),
    ("repetition_penalty", math.inf, "from 0.01 to 100"),
    ("min_tokens", -1, "0 or more"),
    ("min_tokens", 17, "at most max_tokens, 16"),
    ("max_tokens", 0, "1 or more"),
    ("seed", 2**63, "whole number from"),
    ("seed", 1.0, "whole number"),
    ("logprobs", -2, "-1 to"),
    ("logprobs", True, "-1 to"),
    ("stop", ("",), "1 to 1024 characters"),
    ("stop", ("x" * 1025,), "1 to 1024 characters"),
    ("stop", (5,), "1 to 1024 characters"),
    ("stop", ("x",) * 65, "at most 64"),
    ("stop_token_ids", (100,), "from 0 to 99"),
    ("stop_token_ids", (-1,), "from 0 to 99"),
    ("stop_token_ids", ("3",), "from 0 to 99"),
    ("stop_token_ids", (1,) * 65, "at most 64"),
    ("logit_bias", ((100, 1.0),), "from 0 to 99"),
    ("logit_bias", ((1, 101.0),), "from -100 to 100"),
    ("logit_bias", ((1, math.nan),), "from -100 to 100"),
    ("logit_bias", ((1, "2"),), "from -100 to 100"),
    ("logit_bias", ((1, 1.0), (1, 2.0)), "each token once"),
    ("prompt_logprobs", -2, "-1 to"),
    ("logprob_token_ids", (5,), "beside logprobs"),
    ("logprob_token_ids", 5, "a list"),
    ("logprob_token_ids", ([1],), "beside logprobs"),
    ("cache_salt", "", "a string of 1 to 256 characters"),
)


@pytest.mark.parametrize(("field", "value", "legal"), WRONG)
def test_anything_else_is_refused_by_name(field: str, value: object, legal: str) -> None:
    with pytest.raises(RequestError) as raised:
        check(SamplingParams(**{field: value}), VOCAB)  # type: ignore[arg-type]
    assert raised.value.param == field and raised.value.status == 400
    message = str(raised.value)
    assert message.startswith(field) and legal in message and len(message) < 200


@pytest.mark.parametrize("value", [([1],), ("x",), (1, 1)])
def test_named_ids_beside_logprobs_are_ids(value: tuple[object, ...]) -> None:
    with pytest.raises(RequestError, match="logprob_token_ids"):
        check(SamplingParams(logprobs=1, logprob_token_ids=value), VOCAB)  # type: ignore[arg-type]


def test_minus_one_is_as_many_alternatives_as_are_allowed() -> None:
    assert with_logprobs(SamplingParams(logprobs=-1, prompt_logprobs=3), 5).logprobs == 5
    assert with_logprobs(SamplingParams(prompt_logprobs=-1), 5).prompt_logprobs == 5
    same = SamplingParams(logprobs=5)
    assert with_logprobs(same, 5) is same
    with pytest.raises(RequestError, match="^logprobs 6: legal: -1 .* to 5"):
        with_logprobs(SamplingParams(logprobs=6), 5)
    with pytest.raises(RequestError, match="^prompt_logprobs 6: legal: -1 .* to 5"):
        with_logprobs(SamplingParams(prompt_logprobs=6), 5)


def test_every_field_is_checked_or_free() -> None:
    """A field added to the record must be given a range here."""
    free = {"ignore_eos", "include_stop_str_in_output", "skip_special_tokens"}
    assert {field for field, _, _ in WRONG} | free == set(SamplingParams.__struct_fields__)


ANYTHING = st.one_of(
    *(st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(), st.booleans(), st.none()),
    *(st.lists(each, max_size=3).map(tuple) for each in (st.integers(), st.text(), st.lists(st.integers(0, 99)))),
    st.lists(st.tuples(st.integers(0, 99), st.one_of(st.integers(), st.floats())), max_size=3).map(tuple),
)


@given(fields=st.dictionaries(st.sampled_from(SamplingParams.__struct_fields__), ANYTHING, max_size=3))
@example(fields={"bad_token_ids": ([0],)})
@example(fields={"temperature": 1})
@settings(max_examples=400)
def test_what_passes_can_be_sent_to_ranks(fields: dict[str, Any]) -> None:
    """A plan that cannot be sent would end the ranks, and what runs beside it with them."""
    params = SamplingParams(**fields)
    try:
        check(params, VOCAB)
    except RequestError:
        return
    arrived = msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(params)), SamplingParams)
    # a list arrives as the tuple that it stands for
    assert arrived == msgspec.convert(msgspec.to_builtins(params), SamplingParams)
