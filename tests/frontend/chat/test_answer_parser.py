"""Answers as parts: every form, however the text falls into pieces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.frontend.chat.answer_parser import AnswerParser
from weft.frontend.chat.parts import CallArguments, CallStart, Part, ReasoningPart, TextPart, WholeAnswer, gathered
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, ReasoningForm
from weft.frontend.chat.render import written_calls
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm
from weft.frontend.chat.tools import Tool

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "more": {},
        "maybe": {"type": ["string", "null"]},
    },
}
TOOLS = tuple(Tool(name=name, parameters=PARAMETERS) for name in ("get_weather", "get", "a.b-c_d"))
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"city": "Paris"},
    {"city": 'a "quoted" \\ } ] {\n', "days": 3},
    {"city": "<tool_call> ü 🙂", "more": {"x": [1, {"y": "]}"}, None, True]}},
    {"city": "", "days": -2, "maybe": None},
)


def parser(form: ToolForm | None, reasoning: ReasoningForm | None = None, **more: Any) -> AnswerParser:
    ids = (f"id{at}" for at in itertools.count())
    return AnswerParser(form=form, tools=TOOLS, reasoning=reasoning, ids=lambda: next(ids), **more)


def merged(parts: list[Part]) -> list[Part]:
    """Neighbours of a kind as one."""
    made: list[Part] = []
    for part in parts:
        last = made[-1] if made else None
        if isinstance(part, CallStart) or type(part) is not type(last):
            made.append(part)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments) and part.index == last.index:
            made[-1] = CallArguments(part.index, last.text + part.text)
        elif isinstance(part, TextPart) and isinstance(last, TextPart):
            made[-1] = TextPart(last.text + part.text)
        elif isinstance(part, ReasoningPart) and isinstance(last, ReasoningPart):
            made[-1] = ReasoningPart(last.text + part.text)
        else:
            made.append(part)
    return made


def streamed(reader: AnswerParser, pieces: list[str]) -> list[Part]:
    return merged([part for piece in pieces for part in reader.push(piece)] + reader.finish())


def calls_of(whole: WholeAnswer) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in whole.calls]


@pytest.mark.parametrize("form", TOOL_FORMS.values(), ids=lambda form: form.name)
def test_what_is_written_is_read(form: ToolForm) -> None:
    """Brute force: every list of one or two calls of three tools with five arguments."""
    each = list(itertools.product([tool.name for tool in TOOLS], ARGUMENTS))
    reasoning = REASONING_FORMS["gpt_oss"] if form.in_channels else None
    sequences = [[one] for one in each] + [list(pair) for pair in itertools.product(each, repeat=2)]
    for wanted in sequences if form.parallel else sequences[: len(each)]:
        given_calls = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in wanted]
        whole = parser(form, reasoning).whole(written_calls(form, given_calls))
        assert calls_of(whole) == wanted
        assert whole.text is None and whole.reasoning is None
        if form.arguments == "json":
            assert [call.arguments for call in whole.calls] == [text for _, text in given_calls]


TEXTS = ("", "Hello", "Let me look.\n\n", " { } [x] <tool", "a\n b <|channel|> [TOOL_CALLS] </think> 2 < 3")
THOUGHTS = ("", "Hm.\nThe user < wants </thin", ' {"name": "get"} \n')


def answers(form: ToolForm, reasoning: ReasoningForm | None) -> list[str]:
    calls = [("get_weather", '{"city": "Par\\"is", "days":  3}'), ("get", "{}")][: 2 if form.parallel else 1]
    written = written_calls(form, calls)
    made = [text + written + after for text in TEXTS for after in ("", " bye", "\n")]
    made += [written[:cut] for cut in range(0, len(written), 3)]
    if reasoning is not None:
        made += [
            reasoning.begin + thought + reasoning.end + reasoning.then + "\n\n" + rest
            for thought in THOUGHTS
            for rest in ("", "Hello", written, (reasoning.answer or ("",))[0] + " So:\n" + written)
        ]
    return made


PAIRS = [
    (form, REASONING_FORMS["gpt_oss"] if form.in_channels else reasoning)
    for form in TOOL_FORMS.values()
    for reasoning in ([None] if form.in_channels else [None, REASONING_FORMS["think"], REASONING_FORMS["mistral"]])
]
NAMES = [f"{form.name}-{reasoning.name if reasoning else 'none'}" for form, reasoning in PAIRS]


@pytest.mark.parametrize(("form", "reasoning"), PAIRS, ids=NAMES)
def test_pieces_do_not_matter(form: ToolForm, reasoning: ReasoningForm | None) -> None:
    """All at once, character by character, and cut once anywhere."""
    for text in answers(form, reasoning):
        whole = streamed(parser(form, reasoning), [text])
        assert streamed(parser(form, reasoning), list(text)) == whole, text
        for cut in range(0, len(text), 7):
            assert streamed(parser(form, reasoning), [text[:cut], text[cut:]]) == whole, text


@pytest.mark.parametrize("form", TOOL_FORMS.values(), ids=lambda form: form.name)
def test_a_call_that_is_cut_off_is_never_text(form: ToolForm) -> None:
    """Wherever the answer is cut: the call as far as it came, or nothing; a head without its first word may be text."""
    reasoning = REASONING_FORMS["gpt_oss"] if form.in_channels else None
    calls = [("get_weather", '{"city": "Paris"}'), ("get", "{}")]
    one, several = written_calls(form, calls[:1]), written_calls(form, calls[: 2 if form.parallel else 1])
    first = next((token for token in form.tokens if one.startswith(token)), "{")
    for must_call, written, start in ((True, several, 0), (False, one, len(first))):
        for cut in range(start, len(written)):
            whole = parser(form, reasoning, must_call=must_call).whole(written[:cut], cut=True)
            assert whole.text is None, written[:cut]
    for text in ("1 <", "<tool", "x <|chan"):
        assert parser(form, reasoning).whole(text, cut=True).text == text


def test_a_call_is_called_once_it_is_whole() -> None:
    for text, called in (
        ("Hello", False),
        ('<tool_call>{"name": "get", "arguments": {', False),
        ('<tool_call>{"name": "get", "arguments": {}', True),
        ('<tool_call>{"name": "get", "arguments": {}}</tool_call><tool_call>{"name": "get", "arguments": {"', False),
    ):
        reader = parser(TOOL_FORMS["hermes"])
        reader.whole(text, cut=True)
        assert reader.called == called


WORDS = (
    "{", "}", '"', '"name"', '"arguments"', "get", "get_weather", ":", ",", " ", "\n", "[", "]", "<function=", ">",
    "<parameter=city>", "</parameter>", "</function>", "x", "\\", "commentary", " to=functions.", "analysis", "final",
    "json", "; ",
)  # fmt: skip
ATOMS = sorted({token for pair in PAIRS for row in pair if row is not None for token in row.tokens} | {*WORDS})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PAIRS), st.lists(st.sampled_from(ATOMS), max_size=30), st.data())
def test_pieces_do_not_matter_in_any_text(
    pair: tuple[ToolForm, ReasoningForm | None], words: list[str], data: st.DataObject
) -> None:
    text, form, reasoning = "".join(words), *pair
    thinking = reasoning is not None and data.draw(st.booleans())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    whole = streamed(parser(form, reasoning, thinking=thinking), [text])
    assert streamed(parser(form, reasoning, thinking=thinking), pieces) == whole
    assert all(part.text for part in whole if not isinstance(part, CallStart))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["Hello", " ", "\n", "<tool", "_call>", "<think", ">", "{", '"name"', "[TOOL"]), max_size=12
    )
)
def test_text_without_calls_comes_as_it_is(words: list[str]) -> None:
    text = "".join(words)
    for form in TOOL_FORMS.values():
        if not any(trigger in text for trigger in ("<tool_call>",)):
            assert gathered(streamed(parser(form), list(text))).text == (text or None)
