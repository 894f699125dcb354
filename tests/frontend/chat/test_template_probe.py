"""What templates know, and conversations as they take them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.frontend.chat.templates import FAMILIES
from weft.base.errors import ConfigError
from weft.engine.text.chat_template import ChatTemplates
from weft.frontend.chat.answer_parser import AnswerParser
from weft.frontend.chat.config import ChatConfig, ChatForms, chosen
from weft.frontend.chat.history import for_template
from weft.frontend.chat.reasoning_forms import Thinking, thinking_after
from weft.frontend.chat.template_probe import TemplateKnows, probe
from weft.frontend.chat.tools import Tool

TOOLS = (Tool(name="get_weather", description="The weather"), Tool(name="stop"))


def templates_of(family: str) -> ChatTemplates:
    return ChatTemplates({"default": FAMILIES[family][0]}, {})


def forms_of(family: str, **options: Any) -> ChatForms:
    return chosen(probe(templates_of(family)), ChatConfig(**options))


def said(knows: TemplateKnows) -> tuple[object, ...]:
    form, reasoning = knows.form and knows.form.name, knows.reasoning and knows.reasoning.name
    rest = (knows.several, knows.results, knows.system, knows.reasoning_field, knows.switch, reasoning)
    return (knows.tools, knows.calls, form, *rest)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_template_knows_is_found(family: str) -> None:
    assert said(probe(templates_of(family))) == FAMILIES[family][1]


def call(name: str, arguments: dict[str, Any], id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def history(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    results = [{"role": "tool", "tool_call_id": one["id"], "content": f"result {at}"} for at, one in enumerate(calls)]
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": calls},
        *results,
        {"role": "assistant", "content": "Sunny."},
        {"role": "user", "content": "Thanks"},
    ]


ARGUMENTS: tuple[dict[str, Any], ...] = ({}, {"city": "Paris"}, {"city": 'a "b" \\ }', "days": 3})


def rendered(family: str, messages: list[dict[str, Any]], **options: str) -> str:
    forms = forms_of(family, **options)
    turns = for_template(messages, forms, TOOLS)
    tools = None if forms.describes else [tool.as_sent() for tool in TOOLS]
    return templates_of(family).render(turns, tools=tools)


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_a_conversation_are_read_back(family: str) -> None:
    """Brute force: render(history), then parse, is the same calls; each tool, argument and number of calls."""
    forms = forms_of(family)
    assert forms.tools is not None
    each = list(itertools.product([tool.name for tool in TOOLS], ARGUMENTS))
    for wanted in [[one] for one in each] + [list(pair) for pair in itertools.product(each, repeat=2)]:
        messages = history([call(name, given, f"call_{at}") for at, (name, given) in enumerate(wanted)])
        text = rendered(family, messages if forms.knows.system else messages[1:])
        for mark in ("Weather?", "result 0", "get_weather", "Sunny."):
            assert mark in text
        if forms.tools.at_start:  # each turn on its own
            turns = text.partition("Weather?")[2].split("<|end_header_id|>\n\n")
        else:
            turns = [text.partition("Weather?")[2]]
        assert [found for turn in turns for found in read(forms, turn)] == wanted


def read(forms: ChatForms, text: str) -> list[tuple[str, Any]]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [Tool(name=tool.name, parameters=schema) for tool in TOOLS]
    found = AnswerParser(form=forms.tools, tools=tools, reasoning=forms.reasoning).whole(text)
    return [(one.name, json.loads(one.arguments)) for one in found.calls]


def test_reasoning_of_a_conversation_goes_where_the_template_looks() -> None:
    messages = history([call("stop", {}, "call_0")])
    assert "<think>\nHm.\n</think>" in rendered("qwen3", messages)
    assert "<|channel|>analysis<|message|>Hm.<|end|>" in rendered("gpt_oss", messages)
    assert "Hm." not in rendered("chatml", messages)


def test_tools_are_described_where_the_template_shows_none() -> None:
    text = rendered("chatml", history([])[:2])
    assert text.index("Be brief.") < text.index("# Tools") < text.index("The weather") < text.index("Weather?")
    assert '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' in text
    assert "<｜tool▁call▁begin｜><function-name><｜tool▁sep｜>" in rendered("deepseek_v31", history([])[:2])
    assert rendered("strict", history([])[1:2]).startswith("<user># Tools")
    assert "# Tools\n{" in rendered("qwen", history([])[:2])
    another = rendered("qwen", history([call("stop", {}, "call_0")]), tool_call_parser="llama3_json")
    assert '{"name": "stop", "parameters": {}}' in another and another.count("# Tools") == 1


def test_ids_have_nine_letters_where_the_form_has_such() -> None:
    turns = for_template(history([call("stop", {}, "call_1234567890")]), forms_of("mistral"))
    (id,) = {turns[2]["tool_calls"][0]["id"], turns[3]["tool_call_id"]}
    assert len(id) == 9 and id.isalnum()


def test_an_answer_that_was_cut_off_can_be_sent_back() -> None:
    cut = {"id": "call_0", "type": "function", "function": {"name": "stop", "arguments": '{"a": "b'}}
    for family in FAMILIES:
        if family != "coder":  # its template itself needs an object
            assert "stop" in rendered(family, history([cut])[1:])


def test_unknown_keys_and_roles_reach_the_template() -> None:
    (turn,) = for_template([{"role": "critic", "content": "x", "mood": {"a": [1]}}], forms_of("chatml"))
    assert turn == {"role": "critic", "content": "x", "mood": {"a": [1]}}


@pytest.mark.parametrize(
    ("prompt", "thinking"),
    [
        ("<a>", Thinking.MAY),
        ("<a><think>\n", Thinking.OPEN),
        ("<a><think>\n\n</think>\n\n", Thinking.NONE),
        ("<u>say <think> please</u><a>", Thinking.MAY),
    ],
)
def test_a_prompt_says_how_an_answer_begins(prompt: str, thinking: Thinking) -> None:
    form = forms_of("qwen3").reasoning
    assert thinking_after(prompt, form) is thinking
    assert thinking_after(prompt, None) is Thinking.NONE
    assert thinking_after("<a>x", form, "x") is Thinking.NONE
    assert thinking_after("<a><think>x", form, "<think>x") is Thinking.OPEN


def test_options_choose_forms() -> None:
    assert forms_of("qwen", tool_call_parser="none").tools is None
    forced = forms_of("qwen", tool_call_parser="qwen3_xml", reasoning_parser="deepseek_r1")
    assert forced.tools is not None and forced.tools.name == "qwen3_coder" and forced.describes
    assert forced.reasoning is not None and forced.reasoning.name == "think"
    assert forms_of("qwen3", reasoning_parser="none").reasoning is None
    one = forms_of("llama").tools
    assert one is not None and not one.parallel
    assert any("none refuses" in line for line in forms_of("chatml").lines())
    with pytest.raises(ConfigError, match="tool_call_parser"):
        ChatConfig(tool_call_parser="x")
