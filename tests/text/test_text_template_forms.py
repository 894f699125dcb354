"""How contents reach a chat template, found by trying: as text, as lists of parts, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from weft.errors import RequestError
from weft.text.chat_template import ChatTemplates

PART = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
PARTS = "{% for m in messages %}" + PART + "{% endfor %}"
TEXT = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}" + PART + "{% endif %}{% endfor %}"
)
FIRST = "{{ messages[-1].content[0]['text'] }}"
SYSTEM_FIRST = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + TEXT
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PARTS


def decided(**sources: str) -> ChatTemplates:
    templates = ChatTemplates(sources, {"bos_token": "<s>"})
    templates.decide()
    return templates


@pytest.mark.parametrize(
    ("template", "parts"),
    [(TEXT, False), (EITHER, False), (SYSTEM_FIRST, False), (PARTS, True), (FIRST, True), (NO_SYSTEM, True)],
)
def test_contents_reach_a_template_as_it_reads_them(template: str, parts: bool) -> None:
    templates = decided(default=template)
    assert templates.parts == {"default": parts}
    conversation: list[dict[str, Any]] = [{"role": "user", "content": "the loom"}]
    if "system first" in template:
        conversation.insert(0, {"role": "system", "content": "x"})
    assert "the loom" in templates.render(conversation)
    assert "'text'" not in templates.render(conversation)


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
    assert templates.parts == {"default": False, "tool_use": True}
    monkeypatch.setattr(ChatTemplates, "render", lambda *args, **options: pytest.fail("tried again"))
    templates.decide()


def test_a_template_for_tools_is_rendered_with_tools() -> None:
    templates = decided(default=TEXT, tool_use="{{ tools[0].function.name }}" + PARTS)
    tool = {"type": "function", "function": {"name": "weave"}}
    assert templates.render([{"role": "user", "content": "x"}], tools=[tool]) == "weavex"
