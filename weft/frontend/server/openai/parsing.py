"""From the bytes of a body to a checked request record.

A body is looked over before it becomes objects: its values, not only its bytes, are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from weft.base.errors import RequestError
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.fields.table import FieldTable
from weft.frontend.server.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
    with_reasoning,
)

CHATS, COMPLETIONS, TOKENIZER = FieldTable("chat"), FieldTable("completions"), FieldTable("tokenizer")
MAX_DETOKENIZED = 1 << 18
"""Token ids that are made text in one answer."""
MAX_SEPARATORS = 1 << 20
MAX_BRACKETS = 1 << 18
MAX_KEYS = 1 << 16
"""Commas, opening brackets and keys of a body: above them it holds more values than any context has tokens."""

Kind = TypeVar("Kind", bound=msgspec.Struct)
_NO_NUMBER = re.compile(rb'"([A-Za-z_]{1,64})"\s*:\s*(-?(?:NaN|Infinity)|-?\d[\d.]*[eE]\+?\d{3,})')
SEARCHED = 1 << 16
"""Bytes of a body that is no JSON that are looked at for a number that is none."""
_NAME_END = re.compile(rb'"[ \t\n\r]*:')
_QUOTE_INSIDE = re.compile(rb'(?<!\\)(?:\\\\)*\\"[ \t\n\r]*:')
"""A quote and a colon: after the name of a value; inside a string, where the quote is escaped."""
_LONG = re.compile(r"(?P<start>(?<=['`]).{80}).+(?=['`])", re.DOTALL)
"""A value in an error text of msgspec, which repeats all of it."""
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def completion_request(
    body: bytes, notes: Notes, defaults: Mapping[str, Any], longest: int | None = None
) -> CompletionRequest:
    """`defaults` for fields that are not given. RequestError names the field that is wrong; a prompt of more than
    `longest` ids that is not to be cut is refused before each is checked."""
    fields = {**defaults, **COMPLETIONS.known(json_object(body), CompletionRequest, notes)}
    need(fields, "prompt")
    if longest is not None and "truncate_prompt_tokens" not in fields:
        _check_size(fields["prompt"], longest)
    _check_prompt(fields["prompt"])
    return converted(fields, CompletionRequest)


def chat_request(body: bytes, notes: Notes, defaults: Mapping[str, Any]) -> ChatRequest:
    """`defaults` for fields that are not given. RequestError names the field that is wrong."""
    fields = {**defaults, **CHATS.known(json_object(body), ChatRequest, notes)}
    need(fields, "messages")
    return with_reasoning(converted(fields, ChatRequest))


def tokenize_request(body: bytes, notes: Notes) -> TokenizeRequest | TokenizeChatRequest:
    """A text or a conversation."""
    given = json_object(body)
    if "messages" in given:
        return converted(TOKENIZER.known(given, TokenizeChatRequest, notes), TokenizeChatRequest)
    fields = TOKENIZER.known(given, TokenizeRequest, notes)
    need(fields, "prompt")
    return converted(fields, TokenizeRequest)


def detokenize_request(body: bytes, notes: Notes) -> DetokenizeRequest:
    """Ids."""
    fields = TOKENIZER.known(json_object(body), DetokenizeRequest, notes)
    need(fields, "tokens")
    if isinstance(fields["tokens"], list) and len(fields["tokens"]) > MAX_DETOKENIZED:
        message = f"'tokens' has {len(fields['tokens'])} entries; legal: at most {MAX_DETOKENIZED}"
        raise RequestError(message, param="tokens", code="invalid_value")
    return converted(fields, DetokenizeRequest)


def need(fields: Mapping[str, Any], name: str) -> None:
    """RequestError: the field is missing."""
    if name not in fields:
        raise RequestError(f"'{name}' is missing", param=name, code="missing_required_parameter")


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body is. RequestError: it is none, or holds too much."""
    if body.count(b",") > MAX_SEPARATORS or body.count(b"[") + body.count(b"{") > MAX_BRACKETS or _many_keys(body):
        raise RequestError("the body holds too many values", code="too_many_values")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        number = _NO_NUMBER.search(body, 0, SEARCHED)
        if number is None:
            raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from error
        name, shown = number[1].decode(), number[2].decode()[:20]
        message = f"'{name}' is {shown}: the body is not JSON, whose numbers are finite"
        raise RequestError(message, param=name, code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object", code="invalid_json")
    if _named(body, _keys(value)) > _keys(value):
        _check_once(body)
    return value


def _named(body: bytes, most: int) -> int:
    """Names of values in the text, whatever blanks stand after them. Exact where they are more than `most`."""
    found = body.count(b'":') + body.count(b'" ') + body.count(b'"\t') + body.count(b'"\n') + body.count(b'"\r')
    if found <= most:
        return found  # an upper bound
    ends = _NAME_END.subn(b"", body)[1]
    return ends - _QUOTE_INSIDE.subn(b"", body)[1] if ends > most else ends


def _keys(value: object) -> int:
    """How many keys a decoded value has; of lists that begin with a scalar none are counted."""
    count, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            count += len(one)
            left += one.values()
        elif isinstance(one, list) and one and isinstance(one[0], dict | list):
            left += one
    return count


def _check_once(body: bytes) -> None:
    """RequestError for a key that an object has twice."""
    try:
        json.loads(body, object_pairs_hook=_once)
    except RecursionError as error:  # this reader goes less deep than the one before it
        raise RequestError("the body is nested too deeply", code="invalid_json") from error


def _once(pairs: list[tuple[str, object]]) -> None:
    """RequestError for a key that comes again: readers differ in which of the two they take."""
    seen = set[str]()
    for name, _ in pairs:
        if name in seen:
            raise RequestError(f"'{name[:64]}' is given twice", param=name[:64], code="invalid_json")
        seen.add(name)


def _many_keys(body: bytes) -> bool:
    """The first count is the cheapest by far, and enough for almost every body."""
    return body.count(b":") > MAX_KEYS and _named(body, MAX_KEYS) > MAX_KEYS


def converted(fields: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """Checked fields as a record. RequestError names the field that has another type."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _PATH.search(text)
        path = match["path"] if match else None
        message = _LONG.sub(r"\g<start>…", _PATH.sub("", text))
        if path and message.startswith("Invalid enum value") and (legal := _legal(kind, path)):
            message += "; legal: " + ", ".join(legal)
        raise RequestError(f"'{path}': {message}" if path else message, param=path, code="invalid_type") from error


def _legal(kind: type[msgspec.Struct], path: str) -> list[str]:
    """Values of the enumeration at `path`, as `text.format.type` or `include[0]`; empty where there is none."""
    found: list[Any] = [msgspec.inspect.type_info(kind)]
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        found = [inner for one in found for inner in _inside(one, step)]
    return [repr(value) for one in found if isinstance(one, msgspec.inspect.LiteralType) for value in one.values]


def _inside(holder: Any, step: str) -> list[Any]:
    """Types of the field `step`, or of the items of a list; each type of a union alone."""
    if isinstance(holder, msgspec.inspect.StructType):
        inner = [field.type for field in holder.fields if field.encode_name == step]
    elif isinstance(holder, msgspec.inspect.ListType) and step.startswith("["):
        inner = [holder.item_type]
    else:
        inner = []
    return [one for type in inner for one in (type.types if isinstance(type, msgspec.inspect.UnionType) else [type])]


def _check_size(prompt: object, longest: int) -> None:
    if isinstance(prompt, list) and len(prompt) > longest and type(prompt[0]) is int:
        message = f"'prompt' has {len(prompt)} tokens; the context is {longest} tokens"
        raise RequestError(message, param="prompt", code="context_length_exceeded")


def _check_prompt(prompt: object) -> None:
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list):
        raise _bad_prompt()
    if not prompt:
        raise RequestError("'prompt' is an empty list", param="prompt", code="invalid_value")
    texts = all(isinstance(item, str) for item in prompt)
    if not texts and not _is_ids(prompt) and not all(isinstance(item, list) and _is_ids(item) for item in prompt):
        raise _bad_prompt()


def _bad_prompt() -> RequestError:
    message = "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token ids"
    return RequestError(message, param="prompt", code="invalid_type")


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)
