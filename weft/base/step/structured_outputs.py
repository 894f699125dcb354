"""What an answer is to be, in vLLM's words. Plain record; `weft.compute.grammars` makes a grammar of it."""

from __future__ import annotations

from typing import Any

import msgspec


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of the first six. `json`: a schema, as an object or its text; `regex`: which the whole answer
    matches; `choice`: one of these texts; `grammar`: Lark or GBNF; `json_object`: any object; `structural_tag`: free
    text, in which triggers begin structures. Of JSON: `whitespace_pattern` may stand between two tokens;
    `disable_additional_properties`: objects have only the properties that their schema names."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
