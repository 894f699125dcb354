"""Rows with a grammar: what they may choose, in torch and in C++, beside rows without one; how a grammar fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.grammars.vocabularies import END, IM_END, small_vocabulary
from tests.support.waiting import until
from weft.base.step.plan import GRAMMAR_FAILED, NewRequest, Sampled, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.llguidance_compiler import LLGuidanceAutomaton, LLGuidanceCompiler
from weft.compute.sampling.grammar_masks import GrammarMasks, as_bools, grammar_masks
from weft.compute.sampling.native_sampling import SamplingKernel
from weft.compute.sampling.sampled_rows import SampledRows, sampled_rows
from weft.compute.sampling.sampler import NOT_FINITE, Sampler

CPU = torch.device("cpu")
VOCABULARY = small_vocabulary()
TOKENS = VOCABULARY.tokens()
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
JSON = '%llguidance {"no_forcing": true}\nstart: %json ' + json.dumps(SCHEMA)
LETTERS = 'start: "a" "b"+'
NO_STREAMS = np.zeros((3, 0), np.int64)


@pytest.fixture(params=["torch", "native"])
def sampler(request: pytest.FixtureRequest) -> Iterator[Sampler]:
    with closing(grammar_masks(VOCABULARY, len(VOCABULARY))) as masks:
        kernel = SamplingKernel.find() if request.param == "native" else None
        yield Sampler(4, len(VOCABULARY), CPU, (END, IM_END), kernel, masks)


def admit(sampler: Sampler, slot: int, output: Sequence[int] = (), **params: Any) -> None:
    sampler.admit(NewRequest(slot, [1], [*output], SamplingParams(**params), 7 + slot))


def rows_of(*places: tuple[int, int]) -> SampledRows:
    runs = [ScheduledRequest(slot, 0, 1, [], [1], True, position) for slot, position in places]
    return sampled_rows(NO_STREAMS, runs)


def step(sampler: Sampler, logits: Tensor, *places: tuple[int, int]) -> list[Sampled]:
    rows = rows_of(*places)
    return sampler.remember(sampler.sample(logits, rows, sampler.width(rows)), rows).runs


def answer(sampler: Sampler, slot: int, steps: int, output: Sequence[int] = (), seed: int = 0) -> list[int]:
    """Ids of random logits until one ends the answer."""
    ids = [*output]
    for position in range(len(ids), steps):
        generator = torch.Generator().manual_seed(1000 * seed + position)
        (sampled,) = step(sampler, 4 * torch.randn(1, len(VOCABULARY), generator=generator), (slot, position))
        assert sampled.error is None
        ids.append(sampled.token_id)
        if sampled.token_id in (END, IM_END):
            break
    return ids


def text(ids: Sequence[int]) -> str:
    return b"".join(TOKENS[id] for id in ids if id not in (END, IM_END)).decode()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 3e38])
def test_only_what_the_grammar_allows_is_chosen(sampler: Sampler, temperature: float) -> None:
    for seed in range(6):
        admit(sampler, 1, grammar=LETTERS, temperature=temperature, max_tokens=None, seed=seed)
        ids = answer(sampler, 1, 400, seed=seed)
        found = text(ids)
        assert found[0] == "a" and {*found[1:]} == {"b"}


@pytest.mark.parametrize("extra", [{}, {"logprobs": 3}, {"repetition_penalty": 1.3}, {"logit_bias": {ord('"'): 3.0}}])
def test_an_answer_that_ends_is_json_of_the_schema(sampler: Sampler, extra: dict[str, Any]) -> None:
    ended = 0
    for seed in range(12):
        admit(sampler, 0, grammar=JSON, temperature=0.6, seed=seed, **extra)
        ids = answer(sampler, 0, 300, seed=seed)
        if ids[-1] in (END, IM_END):
            ended += 1
            assert isinstance(json.loads(text(ids))["name"], str)
    assert ended


def test_after_a_preemption_it_goes_on_where_it_was(sampler: Sampler) -> None:
    admit(sampler, 0, grammar=JSON, temperature=0.9)
    whole = answer(sampler, 0, 40)
    for cut in (1, 5, len(whole) - 1):
        admit(sampler, 2, output=whole[:cut], grammar=JSON, temperature=0.9, seed=7)
        sampler._slots[2].seed = 7
        sampler.table.set(2, 0.9, 0, 1.0, 0.0, 7)
        assert answer(sampler, 2, 40, output=whole[:cut]) == whole


def test_neighbours_are_sampled_as_without_it(sampler: Sampler) -> None:
    logits = torch.randn(3, len(VOCABULARY))
    for slot, temperature in ((1, 0.0), (2, 1.0)):
        admit(sampler, slot, temperature=temperature)
    alone = [each.token_id for each in step(sampler, logits[1:], (1, 3), (2, 5))]
    admit(sampler, 0, grammar=LETTERS, temperature=0.0)
    beside = step(sampler, logits, (0, 0), (1, 3), (2, 5))
    assert [each.token_id for each in beside[1:]] == alone and TOKENS[beside[0].token_id] in (b"a", b"ab")


def test_log_probabilities_are_those_of_the_raw_model(sampler: Sampler) -> None:
    logits = torch.randn(1, len(VOCABULARY))
    admit(sampler, 0, grammar=LETTERS, temperature=0.0, logprobs=2)
    (found,) = step(sampler, logits.clone(), (0, 0))
    wanted = torch.log_softmax(logits[0], -1)
    assert TOKENS[found.token_id] in (b"a", b"ab") and found.logprob == pytest.approx(float(wanted[found.token_id]))
    assert [id for id, _ in found.top] == wanted.topk(2).indices.tolist()


def test_a_logit_that_is_not_finite_is_found_where_the_grammar_forbids_it(sampler: Sampler) -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        admit(sampler, 0, grammar=LETTERS, temperature=0.0)
        logits = torch.randn(1, len(VOCABULARY))
        logits[0, ord("z")] = bad
        assert step(sampler, logits, (0, 0))[0].error == NOT_FINITE


@pytest.mark.parametrize("grammar", ["start: (", "start: missing", '{"grammars": []}', "%llguidance {"])
def test_a_grammar_that_cannot_be_compiled_ends_its_own_request(sampler: Sampler, grammar: str) -> None:
    admit(sampler, 0, grammar=grammar, temperature=0.0)
    admit(sampler, 1, temperature=0.0)
    logits = torch.randn(2, len(VOCABULARY))
    failed, fine = step(sampler, logits, (0, 0), (1, 0))
    assert failed.error == GRAMMAR_FAILED
    assert (fine.error, fine.token_id) == (None, int(logits[1].argmax()))


def test_a_grammar_that_takes_too_much_work_ends_its_own_request() -> None:
    class Tired:
        def feed(self, ids: Sequence[int]) -> None: ...

        def fill(self, mask: Any) -> None:
            self.left = getattr(self, "left", 2) - 1
            if self.left < 0:
                raise GrammarError("too much work")
            mask[:] = 2**32 - 1

    class Tiring:
        def compile(self, text: str) -> Tired:
            return Tired()

    with closing(GrammarMasks(Tiring, len(VOCABULARY))) as masks:
        sampler = Sampler(2, len(VOCABULARY), CPU, (END,), SamplingKernel.find(), masks)
        admit(sampler, 0, grammar="any", temperature=0.0)
        logits = torch.randn(1, len(VOCABULARY))
        found = [step(sampler, logits, (0, position))[0] for position in range(4)]
    assert [each.error for each in found] == [None, None, GRAMMAR_FAILED, GRAMMAR_FAILED]


def test_no_step_waits_for_the_compile_of_another_grammar() -> None:
    """A grammar that waits for a slot is compiled once; one that is refused counts as compiled."""
    begun, goes_on = threading.Event(), threading.Event()
    made: list[str] = []

    class Slow(LLGuidanceCompiler):
        def _matcher(self, text: str) -> Any:
            made.append(text)
            if text == "start: /slow/":
                begun.set()
                assert goes_on.wait(120)
            return super()._matcher(text)

    with closing(GrammarMasks(lambda: Slow(VOCABULARY), len(VOCABULARY))) as masks:
        sampler = Sampler(1, len(VOCABULARY), CPU, (END,), None, masks)
        texts = [LETTERS, "start: (", "start: /slow/"]
        masks.compile_ahead(texts)
        assert begun.wait(120) and masks.compile_ahead(()) == 2
        admit(sampler, 0, grammar=LETTERS, temperature=0.0)
        assert TOKENS[step(sampler, torch.randn(1, len(VOCABULARY)), (0, 0))[0].token_id][:1] == b"a"
        assert masks.compile_ahead(["start: /x/"]) == 2
        goes_on.set()
        until(lambda: masks.compile_ahead(()) == 4)
        assert made == [*texts, "start: /x/"] and masks.compile_ahead(["start: ("], needed=False) == 5


def test_a_rank_without_a_vocabulary_fails_every_grammar() -> None:
    sampler = Sampler(1, 50, CPU)
    admit(sampler, 0, grammar=LETTERS, temperature=0.0)
    assert step(sampler, torch.randn(1, 50), (0, 0))[0].error == GRAMMAR_FAILED
    sampler.grammars.close()


def test_the_rank_that_did_not_sample_a_row_can_sample_the_next() -> None:
    """Rows of a block may change hands; each rank fed what the others chose."""
    with (
        closing(grammar_masks(VOCABULARY, len(VOCABULARY))) as one,
        closing(grammar_masks(VOCABULARY, len(VOCABULARY))) as other,
    ):
        ranks = [Sampler(1, len(VOCABULARY), CPU, (END,), None, masks) for masks in (one, other)]
        for rank in ranks:
            admit(rank, 0, grammar=JSON, temperature=1.0)
        for position in range(30):
            owner = position // 2 % 2
            rows, logits = rows_of((0, position)), torch.randn(1, len(VOCABULARY))
            values = ranks[owner].sample(logits, rows, 2)
            assert (values == ranks[1 - owner].sample(logits, rows, 2)).all()
            records = [
                rank.remember(values, rows, range(1) if number == owner else range(0))
                for number, rank in enumerate(ranks)
            ]
            assert records[0] == records[1]
            if records[0].runs[0].token_id in (END, IM_END):
                break


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"aa", b"ab"]), min_size=1, max_size=8), st.booleans())
def test_a_mask_has_exactly_what_may_follow(choices: list[bytes], added: bool) -> None:
    """Of a grammar of a few strings, by brute force over the whole vocabulary."""
    strings = {b"".join(choices[:count]) for count in range(1, len(choices) + 1)}
    lark = "start: " + " | ".join(json.dumps(each.decode()) for each in sorted(strings))
    if added:
        lark += ' | "<tool_call>" | <tool_call>'
    automaton = LLGuidanceCompiler(VOCABULARY).compile('%llguidance {"no_forcing": true}\n' + lark)
    mask = np.zeros(-(-len(VOCABULARY) // 32), np.uint32)
    so_far = b""
    named = TOKENS.index(b"<tool_call>")
    for piece in choices:
        automaton.fill(mask)
        allowed = {int(id) for id in as_bools(mask, len(VOCABULARY)).nonzero()[0]}
        every = {*strings} | ({b"<tool_call>"} if added else set())
        wanted = {
            id
            for id, token in enumerate(TOKENS)
            if token and id not in VOCABULARY.added and any(each.startswith(so_far + token) for each in every)
        }
        wanted |= {named} if added and not so_far else set()
        wanted |= {END, IM_END} if so_far in every else set()
        assert allowed == wanted
        automaton.feed([TOKENS.index(piece)])
        so_far += piece


def test_a_token_that_comes_before_its_grammar_is_compiled_is_fed() -> None:
    """As on a rank that samples no row of the slot, and so waits for no mask."""
    compiled = threading.Event()

    class Slow(LLGuidanceCompiler):
        def compile(self, text: str) -> LLGuidanceAutomaton:
            compiled.wait(10)
            return super().compile(text)

    with closing(GrammarMasks(lambda: Slow(VOCABULARY), len(VOCABULARY))) as masks:
        sampler = Sampler(1, len(VOCABULARY), CPU, (END,), None, masks)
        admit(sampler, 0, grammar='start: "ab"', temperature=0.0)
        masks.feed(0, TOKENS.index(b"a"), False)
        compiled.set()
        assert TOKENS[step(sampler, torch.randn(1, len(VOCABULARY)), (0, 1))[0].token_id] == b"b"
