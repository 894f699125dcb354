"""The largest constraints that are taken: they compile, and an answer can be chosen token by token to its end."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.compute.grammars.vocabularies import END, IM_END, small_vocabulary
from tests.support.checkpoints import smollm2
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.constraints import HEADER, Check, Constraint, grammar_of
from weft.compute.grammars.json_schema import MAX_ENUM, MAX_PROPERTIES
from weft.compute.grammars.llguidance_compiler import KEPT, LLGuidanceCompiler
from weft.compute.sampling.grammar_masks import as_bools
from weft.engine.text import Tokenizer
from weft.model.checkpoint import open_checkpoint

VOCABULARY = small_vocabulary()
COMPILER = LLGuidanceCompiler(VOCABULARY)
NAMES = [f"p{number}" for number in range(MAX_PROPERTIES)]
BOOLEANS = {name: {"type": "boolean"} for name in NAMES}
LARGEST: dict[str, tuple[str, Any]] = {
    "properties that may be left out": ("json", {"properties": BOOLEANS, "additionalProperties": False}),
    "properties that may not": ("json", {"type": "object", "properties": BOOLEANS, "required": NAMES}),
    "values": ("json", {"enum": [*range(MAX_ENUM)]}),
    "choices": ("choice", [str(number) for number in range(MAX_ENUM)]),
    "a long text": ("json", {"type": "string", "maxLength": 60_000}),
    "a long expression": ("regex", "a" * 60_000),
}


@pytest.mark.parametrize("name", LARGEST)
def test_an_answer_to_the_largest_can_be_chosen(name: str) -> None:
    kind, value = LARGEST[name]
    grammar = grammar_of(Constraint(kind=kind, value=value), Check(COMPILER.check, {}))
    automaton, mask = COMPILER.compile(grammar.text), np.zeros(-(-len(VOCABULARY) // 32), np.uint32)
    for _ in range(300):
        automaton.fill(mask)
        token = int(random.choice(as_bools(mask, len(VOCABULARY)).nonzero()[0]))
        if token in (END, IM_END):
            return
        automaton.feed([token])


def test_texts_that_may_be_left_out_with_a_large_vocabulary() -> None:
    """As many as a schema may have, where tokens of several JSON signs lead into many places of the grammar at once. As
    a requester's own rules they are too much work."""
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(smollm2()))
    vocabulary = tokenizer.vocabulary(tokenizer.vocab_size, ())
    assert vocabulary is not None
    compiler, mask = LLGuidanceCompiler(vocabulary), np.zeros(-(-len(vocabulary) // 32), np.uint32)
    check = Check(compiler.check, {})
    schema = {"properties": dict.fromkeys(NAMES, {"type": "string"}), "additionalProperties": False}
    made = grammar_of(Constraint(kind="json", value=schema), check).text
    automata = [
        compiler.compile(text) for text in (made, grammar_of(Constraint(kind="grammar", value=made), check).text)
    ]
    for automaton in automata:
        automaton.feed(tokenizer.encode('{"p0": "'))
    automata[0].fill(mask)
    with pytest.raises(GrammarError, match="Too many items"):
        automata[1].fill(mask)


def test_work_beyond_the_limits_is_an_error_and_ends_nothing_else() -> None:
    evil = COMPILER.compile("start: /(((.*a){1,20}){1,20}){1,20}/")
    other = COMPILER.compile('start: "a"+')
    mask = np.zeros(-(-len(VOCABULARY) // 32), np.uint32)
    with pytest.raises(GrammarError):
        for _ in range(2000):
            evil.fill(mask)
            evil.feed([ord("a")])
    other.fill(mask)
    assert as_bools(mask, len(VOCABULARY))[ord("a")]


def test_compiled_grammars_are_kept_at_their_start() -> None:
    compiler = LLGuidanceCompiler(VOCABULARY)
    grammar = HEADER + 'start: "a" "b"'
    first = compiler.compile(grammar)
    first.feed([ord("a")])
    second, mask = compiler.compile(grammar), np.zeros(-(-len(VOCABULARY) // 32), np.uint32)
    second.fill(mask)
    assert as_bools(mask, len(VOCABULARY))[ord("a")]
    for number in range(3 * KEPT):
        compiler.compile(f'start: "{number}"')
    assert len(compiler._kept) == KEPT
