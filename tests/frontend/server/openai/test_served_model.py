"""Texts that are far too long for a context are refused before they are tokenized whole."""

from __future__ import annotations

from functools import cache

import pytest

from tests.support.checkpoints import smollm2
from weft.base.errors import RequestError
from weft.engine.text import Tokenizer
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.openai.requests import ChatRequest
from weft.frontend.text_worker.handler import LONG, Handler
from weft.frontend.text_worker.jobs import Tokenize
from weft.model.checkpoint import open_checkpoint

CONTEXT = 8192


@cache
def served() -> ServedModel:
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(smollm2()))
    return ServedModel("m", tokenizer, tokenizer.vocab_size, 0)


def ids_of(texts: list[str], longest: int | None = None, param: str = "prompt") -> list[list[int]]:
    model = served()
    found: list[list[int]] = Handler(model.tokenizer, model.vocab_size).do(Tokenize(texts, True, longest, param))
    return found


@pytest.fixture(autouse=True)
def _no_long_text_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Tokenizer.encode

    def short_only(self: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert len(text) < 50_000, "the whole text"
        return encode(self, text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", short_only)


@pytest.mark.parametrize("text", ["7" * 100_000, "word " * 20_000, "a" * 1_000_000, "漢" * 100_000])
def test_a_text_far_too_long_is_refused_by_its_beginning(text: str) -> None:
    for texts, param in (([text], "prompt"), (["x", text], "prompt"), ([text], "messages")):
        with pytest.raises(RequestError, match=rf"has at least \d+ tokens; the context is {CONTEXT} tokens") as caught:
            ids_of(texts, CONTEXT, param)
        assert (caught.value.param, caught.value.code) == (param, "context_length_exceeded")


def test_every_name_is_taken() -> None:
    model = ServedModel("m", served().tokenizer, 9, 0, aliases=("n", "o/p"))
    assert model.names == ("m", "n", "o/p")
    for name in (None, *model.names):
        model.check_name(name)
    with pytest.raises(RequestError, match="'x' does not exist; this server has 'm', 'n', 'o/p'"):
        model.check_name("x")


def test_a_template_that_cuts_blanks_cuts_those_of_a_message_that_goes_on() -> None:
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(smollm2()))
    model = ServedModel("m", tokenizer, tokenizer.vocab_size, 0)
    messages = [{"role": "assistant", "content": " so be "}]
    going_on = model.conversation(ChatRequest(messages=[], continue_final_message=True), messages)
    for template, text in (("[{{ messages[0].content | trim }}]", "[so be"), ("{{ messages[0].content }}.", " so be ")):
        tokenizer.chat_templates.sources["default"] = template
        tokenizer.chat_templates._compiled.clear()
        assert going_on.text(model.texts.submit(going_on.render).result()) == text
    tokenizer.chat_templates.sources["default"] = "nothing of it"
    tokenizer.chat_templates._compiled.clear()
    with pytest.raises(RequestError, match="does not show the last message"):
        going_on.text(model.texts.submit(going_on.render).result())


def test_a_long_text_that_fits_is_taken() -> None:
    text = " ".join(["seven words stand here in a row,"] * 1000)
    assert len(text) > LONG
    (ids,) = ids_of([text], CONTEXT)
    assert served().tokenizer.decode(ids) == text and 7000 <= len(ids) < CONTEXT


def test_a_text_that_is_to_be_cut_may_be_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (ids,) = ids_of(["7" * 30_000])
    assert len(ids) == 30_000
