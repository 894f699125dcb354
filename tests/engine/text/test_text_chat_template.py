"""Chat templates: as transformers renders them, in a sandbox, with the template's own words when it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from weft.base.errors import RequestError
from weft.engine.text.chat_template import ChatTemplates

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
  {% set loop_messages = messages[1:] %}
  {% set system = messages[0]['content'] %}
{% else %}
  {% set loop_messages = messages %}
  {% set system = false %}
{% endif %}
{% for message in loop_messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {% endif %}
  {% if loop.index0 == 0 and system %}
    {% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
  {% else %}
    {% set content = message['content'] %}
  {% endif %}
  {%- if message['role'] == 'user' -%}
    {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
  {%- else -%}
    {{ ' ' + content.strip() + ' ' + eos_token }}
  {%- endif -%}
{% endfor %}"""
TOOLS = """{%- set ns = namespace(last=none, count=0) -%}
{%- for message in messages %}
  {%- if message.role == 'tool' %}{% continue %}{% endif %}
  {%- set ns.last = message.role %}{% set ns.count = ns.count + 1 %}
  {%- if ns.count > 3 %}{% break %}{% endif %}
{% generation %}{{ message | tojson }}{% endgeneration %}
{%- endfor %}
{{ ns.last }} {{ ns.count }} {{ tools | tojson(indent=2) if tools else 'no tools' }} {{ strftime_now('%Y') | length }}
{{ dict(a=1).a }} {{ enable_thinking | default('unset') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"""
CHAT = [
    {"role": "user", "content": " Hello <b> & 'quotes' 🙂 "},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "ünïcode\n\n  lines"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "<wörk>", "parameters": {"a": [1, 2.5, None, True]}},
}


def ours(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return ChatTemplates({"default": template}, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, **options)


@pytest.mark.parametrize("template", [CHATML, LLAMA2, TOOLS], ids=["chatml", "llama2", "tools"])
@pytest.mark.parametrize("messages", [CHAT[:1], CHAT, [SYSTEM, *CHAT], [SYSTEM, *CHAT, *CHAT[1:]]], ids=len)
@pytest.mark.parametrize(
    "options",
    [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": [TOOL], "enable_thinking": False},
    ],
    ids=["prompt", "bare", "tools"],
)
def test_like_transformers(template: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> None:
    render: Any = render_jinja_template
    wanted, _ = render([messages], chat_template=template, bos_token="<s>", eos_token="</s>", **options)
    assert ours(template, messages, **options) == wanted[0]


def test_the_templates_own_message() -> None:
    with pytest.raises(RequestError, match="Conversation roles must alternate") as caught:
        ours(LLAMA2, [*CHAT, CHAT[0]])
    assert (caught.value.param, caught.value.status) == ("messages", 400)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0]['content'] + 1 }}", "concatenate"),
        ("{{ messages[7]['content'] }}", "no element 7"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages[0].missing.deeper }}", "no attribute 'missing'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_whatever_the_template_runs_into_is_a_request_error(template: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ours(template, CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ range(10000000) | list | length }}",
        "{% include 'file' %}",
    ],
)
def test_the_sandbox_holds(template: str) -> None:
    try:
        assert ours(template, CHAT) == ""  # jinja gives what it does not show as nothing
    except RequestError as error:
        assert "chat template" in str(error)


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [dict(message) for message in CHAT]
    ours("{% for m in messages %}{% set _ = m.pop('role', none) if false else none %}{% endfor %}", messages)
    assert messages == CHAT


def test_output_is_bounded() -> None:
    template = "{% for i in range(1000) %}{% for j in range(1000) %}{{ 'x' * 100 }}{% endfor %}{% endfor %}"
    templates = ChatTemplates({"default": template}, {}, max_characters=10_000)
    with pytest.raises(RequestError, match="over 10000 characters"):
        templates.render(CHAT)


def test_a_faulty_template_is_the_models_fault() -> None:
    with pytest.raises(RequestError, match="the template itself is faulty") as caught:
        ours("{% for %}", CHAT)
    assert caught.value.status == 500


def test_no_template() -> None:
    with pytest.raises(RequestError, match="no chat template"):
        ChatTemplates({}, {}).render(CHAT)


def test_tool_use_template_is_for_tools() -> None:
    templates = ChatTemplates({"default": "plain", "tool_use": "with tools"}, {})
    assert templates.render(CHAT) == "plain"
    assert templates.render(CHAT, tools=[TOOL]) == "with tools"
    assert templates.render(CHAT, tools=[]) == "plain"


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, numbers()])
def test_only_json_values_go_in(value: Any) -> None:
    with pytest.raises(RequestError, match=r"messages\[0\]\.content: a \w+ is not a JSON value") as caught:
        ours(CHATML, [{"role": "user", "content": value}])
    assert caught.value.param == "messages"


class Loud(str):
    def upper(self) -> str:
        raise AssertionError("code of the caller ran inside the template")


def test_values_lose_methods_of_their_own() -> None:
    assert ours("{{ messages[0].content.upper() }}", [{"role": "user", "content": Loud("x")}]) == "X"
