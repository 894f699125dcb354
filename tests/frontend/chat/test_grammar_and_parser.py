"""The grammar of an answer against its parser: what one takes, the other reads as the same parts, cut anywhere."""

from __future__ import annotations

import json
import random
import re

import pytest

from tests.frontend.chat.test_answer_grammar import ARGUMENTS, TOOLS, ids_of, takes, words
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, ReasoningForm, Thinking
from weft.frontend.chat.render import written_calls
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm
from weft.frontend.chat.tools import ToolUse

ANSWERS = 5000
THINK = REASONING_FORMS["think"]
USE = ToolUse(offered=TOOLS, mode="auto")
NAMED = re.compile(r"(?<!\w)(get_weather|stop)(?!\w)")
BROKEN = ('{"town": 1}', '{"city": "x", "x": 2}', '{"city": 3}', "[1]", '{"city": "x"', "null")
CASES = [
    (form, tokens, thinking)
    for form in TOOL_FORMS.values()
    for tokens in (True, False)
    for thinking in (Thinking.NONE, Thinking.MAY, Thinking.OPEN)
    if not form.in_channels
]
NAMES = [f"{form.name}-{'tokens' if tokens else 'text'}-{thinking.name}" for form, tokens, thinking in CASES]


def rules_of(form: ToolForm, thinking: Thinking) -> AnswerRules:
    reasoning: ReasoningForm | None = None if thinking is Thinking.NONE else THINK
    return AnswerRules(forms=ChatForms(tools=form, reasoning=reasoning), use=USE, thinking=thinking)


class Answers:
    """Random answers: text, thoughts and calls, right ones, nearly right ones and pieces of them."""

    def __init__(self, form: ToolForm, thinking: Thinking, seed: int) -> None:
        self.form, self.thinking, self.random = form, thinking, random.Random(seed)

    def call(self, name: str, arguments: str) -> str:
        """In any spelling."""
        spelling = self.random.choice(self.form.calls)
        if self.form.arguments == "xml":
            return written_calls(self.form, [(name, arguments)])
        made = spelling.replace("$name", name).replace("$arguments", arguments).replace("$id", "abc123DEF")
        if self.random.random() < 0.3:
            made = made.replace('{"', '{ \n"').replace("\n", "")
        return self.form.begin + made + self.form.end

    def piece(self) -> str:
        draw = self.random.random()
        whole = self.call(self.random.choice(["get_weather", "stop"]), self.random.choice(ARGUMENTS[:2]))
        if draw < 0.25:
            return whole
        if draw < 0.35:
            return self.call(self.random.choice(["get_weather", "stop"]), self.random.choice(BROKEN))
        if draw < 0.5:
            return self.call(self.random.choice(["get", "get_weathers", "other", "sto", "x"]), "{}")
        if draw < 0.65:
            start, end = sorted(self.random.choices(range(len(whole) + 1), k=2))
            return whole[start:end]
        if draw < 0.75:
            return self.random.choice([*self.form.tokens, "{", '{"name": "'])
        return self.random.choice(["Hello", " ", "\n", "\n\n", "{}", "a < b", "stop", "get_weather ", "é"])

    def one(self) -> str:
        made = "".join(self.piece() for _ in range(self.random.choice([1, 1, 1, 2, 2, 3])))
        if self.thinking is Thinking.NONE or self.random.random() < 0.2:
            return made
        thought = "".join(self.piece() for _ in range(self.random.choice([0, 1, 2])))
        begin = "<think>" if self.thinking is Thinking.MAY else ""
        before, after = self.random.choice(["", "", " \n"]), self.random.choice(["", "\n\n"])
        end = "" if self.random.random() < 0.1 else f"</think>{after}{made}"
        return f"{before}{begin}{thought}{end}"


def valid(name: str, arguments: str) -> bool:
    try:
        found = json.loads(arguments)
    except ValueError:
        return False
    if not isinstance(found, dict):
        return False
    return name == "stop" or (isinstance(found.get("city"), str) and found.keys() <= {"city", "days", "kind"})


def without_tag(thoughts: str) -> str:
    """An answer that is cut off inside the tag that ends its thoughts: where that is no token, it is text."""
    end = next((at for at in range(len(THINK.end) - 1, 0, -1) if thoughts.endswith(THINK.end[:at])), 0)
    return thoughts[: len(thoughts) - end].rstrip()


@pytest.mark.parametrize(("form", "tokens", "thinking"), CASES, ids=NAMES)
def test_the_parser_reads_what_the_grammar_lets_through(form: ToolForm, tokens: bool, thinking: Thinking) -> None:
    rules = rules_of(form, thinking)
    grammar, made = rules.grammar(words(tokens)), Answers(form, thinking, seed=len(form.name) + 10 * tokens)
    taken = called = 0
    for _ in range(ANSWERS // len(CASES) + 1):
        text = made.one()
        whole = rules.parser().whole(text)
        found = takes(grammar, text, tokens)
        begun = thinking is Thinking.MAY and text.lstrip(" \n\t\r").startswith("<think>")
        if not NAMED.search(text):
            assert not whole.calls
            assert found, f"text that names no tool is blocked: {text!r}"
        if not found:
            continue
        taken += 1
        called += bool(whole.calls)
        assert all(valid(call.name, call.arguments) for call in whole.calls), repr(text)
        assert (whole.reasoning is not None) <= (thinking is Thinking.OPEN or begun)
        for at in range(0, len(text), 1 + len(text) // 9):
            cut = rules.parser().whole(text[:at], cut=True)
            calls = [(call.name, call.arguments) for call in whole.calls]
            for number, call in enumerate(cut.calls):
                assert number < len(calls) and call.name == calls[number][0], repr((text[:at], text[at:]))
                assert calls[number][1].startswith(call.arguments), repr((text[:at], text[at:]))
            assert (whole.reasoning or "").startswith(without_tag(cut.reasoning or "")), repr((text[:at], text[at:]))
    assert taken > 20 and called > 2


def test_ids_of_cases_are_those_of_the_vocabulary() -> None:
    assert len(ids_of("<tool_call>", True)) == 1 and len(ids_of("<tool_call>", False)) == 11
