"""Grammars of answers take what forms write, id by id, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from weft.base.step.vocabulary import Vocabulary
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.answer_grammar import Words
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, ReasoningForm, Thinking
from weft.frontend.chat.render import written_calls
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm
from weft.frontend.chat.tools import Tool, ToolUse

TOKENS = sorted(
    {token for form in TOOL_FORMS.values() for token in form.tokens}
    | {token for form in REASONING_FORMS.values() for token in form.tokens}
)
END = 256
IDS = {token: END + 1 + at for at, token in enumerate(TOKENS)}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (Tool(name="get_weather", parameters=SCHEMA), Tool(name="stop"))
ARGUMENTS = ('{"city": "Par\\"is", "days": 3, "kind": "b"}', '{"city": "x"}', "{}")


@cache
def compiler(tokens: bool) -> LLGuidanceCompiler:
    """Bytes, and a token for each of the forms' or none."""
    added = [token.encode() for token in TOKENS] if tokens else []
    ends = [END, IDS["<|call|>"]] if tokens else [END]
    all_tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", *added]
    return LLGuidanceCompiler(Vocabulary.of(all_tokens, range(END, len(all_tokens)), ends))


def words(tokens: bool) -> Words:
    ids: Mapping[str, int] = IDS if tokens else {}
    return Words(ids=ids, eos=frozenset({END, *([IDS["<|call|>"]] if tokens else [])}))


def ids_of(text: str, tokens: bool) -> list[int]:
    ids: list[int] = []
    while text:
        token = next((token for token in TOKENS if tokens and text.startswith(token)), None)
        ids += list(text[0].encode()) if token is None else [IDS[token]]
        text = text[len(token or "x") :]
    return ids


def takes(grammar: str | None, text: str, tokens: bool) -> bool:
    assert grammar is not None
    automaton = compiler(tokens).compile(grammar)
    try:
        automaton.feed([*ids_of(text, tokens), END])
    except GrammarError:
        return False
    return True


def grammar(
    form: ToolForm,
    use: ToolUse,
    tokens: bool,
    reasoning: ReasoningForm | None = None,
    thinking: Thinking = Thinking.NONE,
    budget: int | None = None,
) -> str | None:
    forms = ChatForms(tools=form, reasoning=REASONING_FORMS["gpt_oss"] if form.in_channels else reasoning)
    thinking = Thinking.MAY if form.in_channels else thinking
    return AnswerRules(forms=forms, use=use, thinking=thinking, budget=budget).grammar(words(tokens))


def written(form: ToolForm, calls: list[tuple[str, str]], tokens: bool) -> str:
    text = written_calls(form, calls)
    return text.removesuffix("<|call|>") if tokens else text


CASES = [(form, tokens) for form in TOOL_FORMS.values() for tokens in (True, False)]
NAMES = [f"{form.name}-{'tokens' if tokens else 'text'}" for form, tokens in CASES]


@pytest.mark.parametrize(("form", "tokens"), CASES, ids=NAMES)
def test_what_a_form_writes_is_taken(form: ToolForm, tokens: bool) -> None:
    one = [[("get_weather", text)] for text in ARGUMENTS[:2]] + [[("stop", "{}")]]
    two = [[*first, *second] for first in one for second in one]
    auto, must = (grammar(form, ToolUse(offered=TOOLS, mode=mode), tokens) for mode in ("auto", "required"))
    for calls in one + (two if form.parallel else []):
        text = written(form, calls, tokens)
        assert takes(auto, text, tokens) and takes(must, text, tokens)
        assert takes(auto, "Let me look.\n" + text, tokens) or form.at_start or form.in_channels
    for text in ("", "Hello {", "  \n"):
        opened = "<|channel|>final<|message|>" + text if form.in_channels else text
        assert takes(auto, opened, tokens) and not takes(must, opened, tokens)


@pytest.mark.parametrize(("form", "tokens"), CASES, ids=NAMES)
def test_what_no_tool_has_is_refused(form: ToolForm, tokens: bool) -> None:
    must = grammar(form, ToolUse(offered=TOOLS, mode="required"), tokens)
    for name, arguments in (
        ("get_weathers", ARGUMENTS[1]),
        ("get_weather", '{"town": "x"}'),
        ("get_weather", '{"days": 1}'),
    ):
        assert not takes(must, written(form, [(name, arguments)], tokens), tokens)
    call = [("get_weather", ARGUMENTS[1])]
    named = grammar(form, ToolUse(offered=TOOLS, mode="required", only=("stop",)), tokens)
    assert takes(named, written(form, [("stop", "{}")], tokens), tokens)
    assert not takes(named, written(form, call, tokens), tokens)
    single = grammar(form, ToolUse(offered=TOOLS, mode="required", parallel=False), tokens)
    assert takes(single, written(form, call, tokens), tokens)
    assert not takes(single, written(form, call * 2, tokens), tokens)


@pytest.mark.parametrize("tokens", [True, False])
def test_calls_begin_after_reasoning(tokens: bool) -> None:
    form, think = TOOL_FORMS["hermes"], REASONING_FORMS["think"]
    call = written(form, [("stop", "{}")], tokens)
    use = ToolUse(offered=TOOLS, mode="required")
    inside = grammar(form, use, tokens, think, thinking=Thinking.OPEN)
    assert takes(inside, f"Hm.\n</think>\n\n{call}", tokens) and not takes(inside, call, tokens)
    may = grammar(form, use, tokens, think, thinking=Thinking.MAY)
    assert takes(may, f"<think>\nHm.\n</think>\n\n{call}", tokens) and takes(may, call, tokens)
    assert not takes(may, f"<think>\nHm.\n</think>\n\nHello {call}", tokens)
    assert not takes(grammar(form, use, tokens, think), f"<think>\nHm.\n</think>\n\n{call}", tokens)


def test_reasoning_has_a_budget() -> None:
    form, think = TOOL_FORMS["hermes"], REASONING_FORMS["think"]
    for budget in (0, 1, 5):
        for begin, thinking in (("", Thinking.OPEN), ("<think>", Thinking.MAY)):
            bounded = grammar(form, ToolUse(), True, think, thinking=thinking, budget=budget)
            assert takes(bounded, begin + "x" * budget + "</think>Hello", True)
            assert not takes(bounded, begin + "x" * (budget + 1) + "</think>Hello", True)
    assert grammar(form, ToolUse(), True, think, budget=5) is None


@pytest.mark.parametrize(("form", "tokens"), CASES, ids=NAMES)
def test_as_many_tools_as_a_request_may_offer(form: ToolForm, tokens: bool) -> None:
    tools = tuple(Tool(name=f"server_{at % 7}_do_{at}", parameters=SCHEMA) for at in range(512))
    auto = grammar(form, ToolUse(offered=tools, mode="auto"), tokens)
    assert takes(auto, written(form, [(tools[-1].name, ARGUMENTS[1])], tokens), tokens)
    assert not takes(auto, written(form, [(tools[3].name, '{"x": 1}')], tokens), tokens)
    assert takes(auto, written(form, [("server_0_do_1", '{"x": 1}')], tokens), tokens) or form.in_channels


def test_without_tools_any_text_will_do() -> None:
    assert grammar(TOOL_FORMS["hermes"], ToolUse(offered=TOOLS, mode="none"), True) is None


def test_white_space_of_json_is_bounded() -> None:
    must = grammar(TOOL_FORMS["hermes"], ToolUse(offered=TOOLS, mode="required"), True)
    assert takes(must, '<tool_call>{"name":"stop","arguments":{}}</tool_call>', True)
    assert takes(must, '<tool_call>\n\n  {\n "name": "stop",\n "arguments": {}\n}\n</tool_call>', True)
    assert not takes(must, '<tool_call>\n\n\n{"name": "stop", "arguments": {}}\n</tool_call>', True)
