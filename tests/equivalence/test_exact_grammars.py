"""Grammars under layouts: ids and logits equal one rank's bit for bit, with grammars on some rows; answers that end are
documents of their schemas; rows without a grammar give what they give alone; with preemption, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compute.grammars.schemas import SCHEMAS, check_document
from tests.equivalence.harness import EXACT, Sizes, checkpoint_at, layout_of, random_prompts
from tests.support.exact_model import write_exact
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.base.step.vocabulary import Vocabulary
from weft.compute.grammars.constraints import HEADER, json_rule
from weft.compute.grammars.json_schema import held_schema
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import FinishReason
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.layout import Layout
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity

VOCAB = 101
LETTERS = [bytes([code]) for code in range(32, 127)]
TOKENS = [*LETTERS, b"\n", b'":', b'{"', b"", b"<|end|>", b"<|im_end|>"]
EOS = (99, 100)
VOCABULARY = Vocabulary.of(TOKENS, EOS, EOS)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "yes", None]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
PROMPTS = random_prompts((7, 1, 11, 4, 6), VOCAB)
LAYOUTS: list[tuple[int, Sizes]] = [
    (2, (2, 2, 2, 2, 2)),
    (2, (1, 2, 1, 2, 2)),
    (2, (2, 1, 2, 1, 1)),
    (3, (3, 3, 3, 3, 1)),
    (3, (1, 1, 1, 1, 3)),
    (4, (2, 4, 2, 4, 4)),
    (4, (4, 2, 4, 1, 2)),
]


def grammar(schema: Any) -> str:
    return HEADER + "start: " + json_rule(held_schema(schema, "schema", strict=True).schema)


def params(index: int, schemas: Sequence[Any]) -> SamplingParams:
    """Every second request has a grammar; every third draws."""
    drawn: dict[str, Any] = {"temperature": 0.9, "seed": 11 + index} if index % 3 == 1 else {"temperature": 0.0}
    if index % 2:
        return SamplingParams(max_tokens=20, ignore_eos=True, **drawn)
    biased: Any = {TOKENS.index(token): 5.0 for token in (b'"', b"}", b"]")} if index % 4 else {}
    return SamplingParams(max_tokens=44, grammar=grammar(schemas[index]), logit_bias=biased, **drawn)


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def text(self) -> str:
        return b"".join(TOKENS[id] for id in self.tokens if id not in EOS).decode()


def run(path: Path, layout: Layout, asked: Sequence[SamplingParams], blocks: int = 200) -> tuple[list[Outcome], int]:
    """Outcomes, and how often a request was preempted."""
    checkpoint = checkpoint_at(path)
    capacity = RankCapacity(num_blocks=blocks, block_size=4, max_num_seqs=4, max_model_len=176)
    shards, cpu = Shards(parse_config(checkpoint.config), layout), torch.device("cpu")
    with closing(LockstepExecutor(checkpoint, shards, EXACT, capacity, cpu, vocabulary=VOCABULARY)) as executor:
        config = EngineConfig(max_model_len=176, max_num_seqs=4, max_num_batched_tokens=9, block_size=4)
        engine = Engine(executor, config, EOS, vocab_size=VOCAB)
        outcomes = [Outcome() for _ in asked]
        for index, one in enumerate(asked):
            engine.add_request(str(index), list(PROMPTS[index % len(PROMPTS)]), one)
        preemptions = 0
        while engine.has_work:
            for output in engine.step():
                assert output.error is None, output.error
                outcome = outcomes[int(output.request_id)]
                outcome.tokens += output.new_token_ids
                outcome.finish = output.finish_reason or outcome.finish
                preemptions += output.preemptions if output.finish_reason else 0
    return outcomes, preemptions


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exact(tmp_path_factory.mktemp("grammars"), "biased")


@pytest.fixture(scope="module")
def alone(dense: Path) -> list[Outcome]:
    return run(dense, layout_of(1, (1, 1, 1, 1, 1)), [params(index, [SCHEMA] * 5) for index in range(5)])[0]


def test_grammars_bind_some_rows_and_no_other(dense: Path, alone: list[Outcome]) -> None:
    assert any(outcome.finish is FinishReason.STOP for outcome in alone[::2])
    for outcome in alone[::2]:
        if outcome.finish is FinishReason.STOP:
            check_document(outcome.text, SCHEMA)
    free = [params(index, [SCHEMA] * 5) for index in (1, 3)]
    layout = layout_of(1, (1, 1, 1, 1, 1))
    for index, one in zip((1, 3), free, strict=True):
        blanks = [SamplingParams(max_tokens=1)] * index
        assert run(dense, layout, [*blanks, one])[0][index].tokens == alone[index].tokens


@pytest.mark.parametrize(("world", "sizes"), LAYOUTS, ids=str)
def test_every_layout_gives_the_ids_of_one_rank(dense: Path, alone: list[Outcome], world: int, sizes: Sizes) -> None:
    found, _ = run(dense, layout_of(world, sizes), [params(index, [SCHEMA] * 5) for index in range(5)])
    assert found == alone


@pytest.mark.parametrize(("world", "sizes"), [(1, (1, 1, 1, 1, 1)), (2, (2, 2, 2, 2, 2))], ids=str)
def test_preempted_requests_go_on_where_they_were(dense: Path, alone: list[Outcome], world: int, sizes: Sizes) -> None:
    found, preemptions = run(
        dense, layout_of(world, sizes), [params(index, [SCHEMA] * 5) for index in range(5)], blocks=15
    )
    assert preemptions > 0
    assert found == alone


def spelled(schema: Any) -> bool:
    """Whether the vocabulary, which has no bytes beyond ASCII, has documents of it."""
    return json.dumps(schema, ensure_ascii=False).isascii()


@pytest.mark.parametrize(("world", "sizes"), [LAYOUTS[0], LAYOUTS[4]], ids=str)
@settings(max_examples=6, deadline=None)
@given(schemas=st.lists(SCHEMAS.filter(spelled), min_size=3, max_size=3))
def test_answers_that_end_are_documents(dense: Path, world: int, sizes: Sizes, schemas: list[Any]) -> None:
    """Of random schemas."""
    asked = [params(index, [each for one in schemas for each in (one, None)]) for index in range(5)]
    found, _ = run(dense, layout_of(world, sizes), asked)
    for outcome, schema in zip(found[::2], schemas, strict=True):
        if outcome.finish is FinishReason.STOP:
            check_document(outcome.text, schema)
