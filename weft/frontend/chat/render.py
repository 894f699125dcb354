"""Tools, calls and results as text, for templates that do not know them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from weft.frontend.chat.tool_forms import ToolForm
from weft.frontend.chat.tools import Tool

DESCRIBED = """\
# Tools

You may call {count} to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

{each}:
{example}"""
"""The words that Hermes and Qwen models were trained on, around another form's calls too."""
_HERMES = "return a JSON object with the function's name and its arguments within <tool_call></tool_call> XML tags"


def described(tools: Sequence[Tool], form: ToolForm) -> str:
    """Tools, and how to call them, for a system message."""
    arguments = "<parameter=NAME>\nVALUE\n</parameter>\n" if form.arguments == "xml" else "<args-json-object>"
    how = _HERMES if form.name == "hermes" else "write the function's name and its arguments in exactly this form"
    return DESCRIBED.format(
        count="one or more functions" if form.parallel else "one function",
        tools="\n".join(json.dumps(tool.as_sent(), ensure_ascii=False) for tool in tools),
        each=f"For each function call, {how}",
        example=form.begin
        + form.written("<function-name>", arguments).replace('"<function-name>"', "<function-name>")
        + form.end,
    )


def written_calls(form: ToolForm, calls: Sequence[tuple[str, str]]) -> str:
    """Calls, each a name and JSON text of its arguments, as an answer's text."""
    arguments = [_xml(text) if form.arguments == "xml" else text for _, text in calls]
    written = [form.written(name, text) for (name, _), text in zip(calls, arguments, strict=True)]
    return form.begin + form.separator.join(written) + form.end if calls else ""


def _xml(arguments: str) -> str:
    """Arguments that are no JSON object, as those of an answer that was cut off, stay as they are."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments
    return "".join(map(_element, values.items())) if isinstance(values, dict) else arguments


def _element(member: tuple[str, Any]) -> str:
    name, value = member
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<parameter={name}>\n{text}\n</parameter>\n"


def written_results(results: Sequence[str]) -> str:
    """Results of calls, as the user's next message."""
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)
