"""Which request fields are understood, which are harmless to leave aside, which are refused by name.

Nothing is ignored silently: a field is in one of these tables or it is unknown, and an unknown field is refused with
the nearest known name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from weft.errors import RequestError

LEFT_ASIDE = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "request_id",
    }
)
"""Labels and hints that cannot change an answer: accepted, without effect."""

_REASONS = {
    "tool calls": ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    "structured output": (
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_decoding_backend",
    ),
    "audio or images": ("audio", "modalities", "mm_processor_kwargs"),
    "options for reasoning": ("reasoning_effort", "include_reasoning", "verbosity", "thinking_token_budget"),
    "chat templates or documents in a request": ("chat_template", "documents"),
    "web search": ("web_search_options",),
    "predicted outputs": ("prediction",),
    "LoRA adapters": ("lora_path", "lora_request"),
    "beam search": ("use_beam_search", "length_penalty", "early_stopping"),
    "best_of for chats": ("best_of",),
    "echo for chats": ("echo",),
    "completion in front of a given suffix": ("suffix",),
    "options for detokenization": ("spaces_between_special_tokens", "detokenize"),
    "custom logits processors": ("logits_processors",),
    "KV cache transfer between servers": ("kv_transfer_params",),
    "engine-specific arguments": ("vllm_xargs",),
    "prompts other than text and token ids": ("prompt_embeds", "media_io_kwargs"),
    "repetition detection": ("repetition_detection",),
    "truncation at the end of a prompt": ("truncation_side",),
}
NOT_SUPPORTED = {name: reason for reason, names in _REASONS.items() for name in names}

_SAME_AS_ABSENT: dict[str, tuple[object, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1.0, 1),
    "early_stopping": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "logits_processors": ([],),
    "detokenize": (True,),
    "spaces_between_special_tokens": (True, False),
    "include_reasoning": (True,),
    "documents": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
    "truncation_side": ("left",),
    "functions": ([],),
}
"""Values of unsupported fields that ask for what happens anyway."""


def known_fields(body: Mapping[str, Any], supported: frozenset[str]) -> dict[str, Any]:
    """The supported fields of a request's body that are not null. RequestError: one cannot be served."""
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in supported:
            if value is not None:
                kept[name] = value
        elif name in NOT_SUPPORTED:
            if value is not None and not _same(name, value):
                raise RequestError(
                    f"'{name}' is not supported: weft has no {NOT_SUPPORTED[name]}",
                    param=name,
                    code="unsupported_parameter",
                )
        elif name not in LEFT_ASIDE:
            raise _unknown(name, supported)
    return kept


def _same(name: str, value: object) -> bool:
    return any(type(value) is type(plain) and value == plain for plain in _SAME_AS_ABSENT.get(name, ()))


def _unknown(name: str, supported: frozenset[str]) -> RequestError:
    shown = name if len(name) <= 64 else name[:61] + "..."
    near = difflib.get_close_matches(name[:64], sorted(supported), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return RequestError(f"unknown field '{shown}'{hint}", param=shown, code="unknown_parameter")
