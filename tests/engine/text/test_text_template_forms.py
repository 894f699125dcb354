"""How contents reach a chat template, found by trying: as text, as lists of parts, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from weft.base.errors import RequestError
from weft.engine.text.chat_template import ChatTemplates, TemplateForm

PART = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
PARTS = "{% for m in messages %}" + PART + "{% endfor %}"
TEXT = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}" + PART + "{% endif %}{% endfor %}"
)
FIRST = "{{ messages[-1].content[0]['text'] }}"
SYSTEM_FIRST = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + TEXT
LITERAL = 'Write {"type": "text"}. ' + TEXT
JSON = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
COUNTS = PARTS.replace("{% endif %}", "{% else %}<image>{% endif %}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PARTS


def decided(**sources: str) -> ChatTemplates:
    templates = ChatTemplates(sources, {"bos_token": "<s>"})
    templates.decide()
    return templates


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        *((form, False) for form in (TEXT, EITHER, SYSTEM_FIRST, LITERAL, JSON)),
        *((form, True) for form in (PARTS, FIRST, NO_SYSTEM, COUNTS)),
    ],
)
def test_contents_reach_a_template_as_it_reads_them(template: str, parts: bool) -> None:
    templates = decided(default=template)
    assert templates.forms == {"default": TemplateForm(parts)}
    conversation: list[dict[str, Any]] = [{"role": "user", "content": "the loom"}]
    if "system first" in template:
        conversation.insert(0, {"role": "system", "content": "x"})
    assert "the loom" in templates.render(conversation)
    assert "'text'" not in templates.render(conversation)


@pytest.mark.parametrize("change", ["upper", "replace(' ', '_')", "title", "reverse"])
def test_words_may_be_changed(change: str) -> None:
    template = "{% for m in messages %}{{ m.content | " + change + " }}{% endfor %}"
    assert decided(default=template).forms == {"default": TemplateForm()}


@pytest.mark.parametrize("contents", [TEXT, PARTS])
def test_a_template_may_loop_over_tools_where_there_are_none(contents: str) -> None:
    """Templates that test for none still get none."""
    templates = decided(default="{% for t in tools %}({{ t.name }}){% endfor %}" + contents)
    assert templates.forms["default"].tools_listed
    conversation = [{"role": "user", "content": "x"}]
    assert "x" in (without := templates.render(conversation)) and "(" not in without
    assert templates.render(conversation, tools=[{"name": "look"}]) == "(look)" + without
    tested = decided(default="{{ '' if tools is none else '(' ~ (tools | length) ~ ')' }}" + contents)
    assert (tested.render(conversation), tested.render(conversation, tools=[])) == (without, "(0)" + without)


def test_only_the_usual_template_is_needed() -> None:
    """Others that cannot be used are left out, with the reason."""
    rag = "{% for d in documents %}{{ d.text }}{% endfor %}" + TEXT
    templates = decided(default=TEXT, rag=rag, tool_use="{{ tools[9].name }}", broken="{% if %}")
    assert templates.sources == {"default": TEXT}
    assert set(templates.left_out) == {"rag", "tool_use", "broken"}
    assert "'NoneType' object is not iterable" in templates.left_out["rag"]
    assert templates.render([{"role": "user", "content": "x"}], tools=[{"name": "look"}]) == "[x]"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ nothing_of_it }}", "shows nothing of a user's message"),
        ("{% for m in messages %}", "the template itself is faulty"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages[7].content }}", "cannot be used"),
        ("{% break %}", "the template itself is faulty"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "faulty"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}{{ messages[0].content.__class__() }}", "cannot be used"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused(template: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        decided(default=template)


def test_each_template_of_a_model_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = decided(default=TEXT, tool_use=PARTS)
    assert templates.forms == {"default": TemplateForm(), "tool_use": TemplateForm(parts=True)}
    monkeypatch.setattr(ChatTemplates, "render", lambda *args, **options: pytest.fail("tried again"))
    templates.decide()


def test_a_template_for_tools_is_rendered_with_tools() -> None:
    templates = decided(default=TEXT, tool_use="{{ tools[0].function.name }}" + PARTS)
    tool = {"type": "function", "function": {"name": "weave"}}
    assert templates.render([{"role": "user", "content": "x"}], tools=[tool]) == "weavex"
