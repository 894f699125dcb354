"""Small chat templates in the manner of model families: how each shows tools, calls, results and reasoning."""

# ruff: noqa: E501  (templates read best unbroken)

from __future__ import annotations

HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TOOLS = "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
CALLS = (
    '{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
)

CHATML = HEAD + "{{ m.content }}" + TAIL
QWEN = TOOLS + HEAD + "{{ m.content or '' }}" + CALLS + TAIL
QWEN3 = (
    TOOLS + HEAD + "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {% if c.function.arguments is string %}{{ c.function.arguments }}'
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}" + TAIL
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)  # fmt: skip
CODER = (
    TOOLS + HEAD + "{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for name, value in c.function.arguments | items %}<parameter={{ name }}>\n{{ value if value is string else value"
    " | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}" + TAIL
)  # fmt: skip
LLAMA = (
    "{% for t in tools or [] %}{{ t | tojson(indent=4) }}{% endfor %}"
    "{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "<|eot_id|>{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_IDS = "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}"
_MISTRAL_REST = (
    "{% elif m.role == 'tool' %}" + _IDS + '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}'
    "[/TOOL_RESULTS]{% elif m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]"
    "{% endif %}[INST] {{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}"
    "{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)  # fmt: skip
MISTRAL = (
    "<s>{% for m in messages %}{% if m.tool_calls is defined %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    "{% set out = c.function | tojson %}{{ out[:-1] }}, \"id\": \"{{ c.id }}\"}{{ ', ' if not loop.last }}{% endfor %}]</s>"
    + _MISTRAL_REST
)  # fmt: skip
MISTRAL_ARGS = (
    "<s>{% for m in messages %}{% if m.tool_calls is defined %}{{ m.content }}{% for c in m.tool_calls %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments if c.function.arguments is string else"
    " c.function.arguments | tojson }}{% endfor %}</s>" + _MISTRAL_REST
)
_DEEPSEEK = (
    "<bos>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% elif m.tool_calls is defined %}"
    "<｜Assistant｜>{{ m.content or '' }}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}CALL{% endfor %}"
    "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
)  # fmt: skip
DEEPSEEK_V3 = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    + _DEEPSEEK.replace(
        "CALL",
        "{{ '\\n' if not loop.first }}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name + '\\n```json\\n' +"
        " c.function.arguments + '\\n```' }}<｜tool▁call▁end｜>",
    )
    + "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
DEEPSEEK_V31 = (
    _DEEPSEEK.replace(
        "CALL",
        "<｜tool▁call▁begin｜>{{ c.function.name + '<｜tool▁sep｜>' + c.function.arguments }}<｜tool▁call▁end｜>",
    )
    + "{% if add_generation_prompt %}<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
GPT_OSS = (
    "{% for t in tools or [] %}type {{ t.function.name }}{% endfor %}"
    "{% for m in messages %}{% if m.tool_calls %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|>{% endif %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>"
    "commentary json<|message|>{{ m.tool_calls[0].function.arguments if m.tool_calls[0].function.arguments is string else"
    " m.tool_calls[0].function.arguments | tojson }}<|call|>{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% elif m.role == 'tool' %}<|start|>functions.{{ m.name }}"
    " to=assistant<|channel|>commentary<|message|>{{ m.content }}<|end|>{% elif m.role == 'assistant' %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% else %}<|start|>{{ m.role }}<|message|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
"""Takes neither a system message nor results."""

# name -> template, (tools, calls, form, several, results, system, reasoning field, switch, reasoning)
FAMILIES: dict[str, tuple[str, tuple[object, ...]]] = {
    "chatml": (CHATML, (False, None, None, True, True, True, None, None, None)),
    "qwen": (QWEN, (True, "object", "hermes", True, True, True, None, None, None)),
    "qwen3": (QWEN3, (True, "text", "hermes", True, True, True, "reasoning_content", "enable_thinking", "think")),
    "coder": (CODER, (True, "object", "qwen3_coder", True, True, True, None, None, None)),
    "llama": (LLAMA, (True, "object", "llama3_json", False, True, True, None, None, None)),
    "mistral": (MISTRAL, (True, "object", "mistral", True, True, False, None, None, None)),
    "mistral_args": (MISTRAL_ARGS, (True, "text", "mistral_args", True, True, False, None, None, None)),
    "deepseek_v3": (DEEPSEEK_V3, (True, "text", "deepseek_v3", True, True, True, None, None, "think")),
    "deepseek_v31": (DEEPSEEK_V31, (False, "text", "deepseek_v31", True, True, True, None, "thinking", "think")),
    "gpt_oss": (GPT_OSS, (True, "text", "gpt_oss", False, True, True, "thinking", None, "gpt_oss")),
    "strict": (STRICT, (False, None, None, True, False, False, None, None, None)),
}
