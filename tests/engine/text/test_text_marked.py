"""Special tokens in users' texts as plain text: as transformers' `sanitize_control_tokens`, for kinds of tokenizers."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from weft.base.errors import RequestError
from weft.engine.text import Tokenizer
from weft.engine.text.marked_text import END, START, MarkedText, unmarked

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content | trim }}<tool>{{ m.name }}<|end|>\n{% endfor %}"
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<|start|>assistant\n"
)
ADDED = [
    AddedToken("<|start|>", special=True),
    AddedToken("<|end|>", special=True),
    AddedToken("<|end|>>", special=True),
    AddedToken("<tool>", special=False, normalized=False),
    AddedToken("<kept>", special=False, normalized=False),
]
TEXTS = ["the cat sat on a mat, and so did I.\n", "user assistant system <|start|> end tool", "Ünï 日本 0123456789"]


@cache
def backend(kind: str) -> Backend:
    """Byte pairs over bytes; the same with a normalizer; pieces that begin with a blank of their own."""
    made = Backend(models.BPE(unk_token="<unk>", fuse_unk=True) if kind == "metaspace" else models.BPE())
    if kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet: list[str] = sorted({*"".join(TEXTS), "<", ">", "|", "▁"})
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        made.normalizer = normalizers.NFC() if kind == "normalized" else None
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>"] if kind == "metaspace" else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens(ADDED)
    return made


@cache
def both(kind: str) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    named = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(backend(kind).to_str()), **named)
    theirs.chat_template = TEMPLATE
    return Tokenizer(Backend.from_str(backend(kind).to_str()), named=named, templates={"default": TEMPLATE}), theirs


PIECES = st.sampled_from(
    [*(token.content for token in ADDED), "<|", "|>", ">", " ", "\n", "the cat", "a", "日本", "é", START, END, "<|end"]
)
WORDS = st.lists(PIECES, max_size=8).map("".join)


@pytest.mark.parametrize("kind", ["bytes", "normalized", "metaspace"])
@settings(max_examples=150, deadline=None)
@given(contents=st.lists(WORDS, min_size=1, max_size=3), name=WORDS, tool=WORDS)
def test_like_transformers(kind: str, contents: list[str], name: str, tool: str) -> None:
    ours, theirs = both(kind)
    marks = MarkedText(ours)
    messages: list[Any] = [{"role": "user", "content": each, "name": name} for each in contents]
    tools: list[Any] = [{"name": "f", "description": tool, "number": 1}]
    text = ours.apply_chat_template(marks.mark(messages), tools=marks.mark(tools), add_generation_prompt=True)
    found = marks.encode(text)
    wanted = theirs.apply_chat_template(messages, tools=tools, sanitize_control_tokens=True, return_dict=False)
    assert found == wanted
    special = sum(id in ours.special_ids - {ours.token_id("<unk>")} for id in found)
    assert special == 2 * len(messages) + 1, "a user's text gave a special token"


@given(
    value=st.recursive(WORDS | st.integers() | st.none(), lambda each: st.lists(each) | st.dictionaries(WORDS, each))
)
def test_marks_keep_what_a_reader_sees(value: Any) -> None:
    marked = MarkedText(both("bytes")[0]).mark(value)
    assert unmarked(json.dumps(marked, ensure_ascii=False)) == unmarked(json.dumps(value, ensure_ascii=False))


def test_a_vocabulary_that_has_the_token_as_text_is_refused() -> None:
    """Nothing is left that would be text."""
    made = Backend(models.WordLevel({"hi": 0, "<|end|>": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.WhitespaceSplit(), decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    marks = MarkedText(Tokenizer(made, named={}, templates={}))
    assert marks.encode(marks.mark("hi hi")) == [0, 0]
    with pytest.raises(RequestError, match="cannot be text"):
        marks.encode(marks.mark("hi <|end|>"))
