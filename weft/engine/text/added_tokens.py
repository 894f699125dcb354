"""Tokens that tokenizer.json lacks and tokenizer_config.json, special_tokens_map.json or added_tokens.json has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from weft.base.errors import FieldError
from weft.base.fields import Fields, shown

SWITCHES = ("single_word", "lstrip", "rstrip", "normalized", "special")
BY_NAME = ("extra_special_tokens", "model_specific_special_tokens")
"""Fields with special tokens by name."""
LONGEST = 4096
"""Characters of a token."""


def add_missing(backend: Backend, config: Fields, named: Mapping[str, str], added: Mapping[str, Any]) -> None:
    """Gives `backend` the tokens that `config` (tokenizer_config.json), its `named` tokens and added_tokens.json
    (`added`) have, with their switches, which count more than tokenizer.json's. FieldError: a token with another id
    than tokenizer.json has for it, or what is no token."""
    known = {token.content: (id, token) for id, token in backend.get_added_tokens_decoder().items()}
    listed = dict(_numbered(config, named, added))
    if "added_tokens_decoder" not in config:
        listed |= dict(known.values())
    marked = {*named.values(), *named_for_the_model(config).values()}
    for id, token in sorted(listed.items()):
        before = known.get(token.content)
        own = repr(before[1]) if before is not None and before[0] == id else ""
        token.special = token.special or token.content in marked or (before is not None and before[1].special)
        if repr(token) == own:
            continue
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != id and before is None:
            field = "added_tokens_decoder" if "added_tokens_decoder" in config else "added_tokens.json"
            raise FieldError(
                f"{config.where}: {field}: token {shown(token.content)} has id {id}, after tokenizer.json's it can only"
                f" have {found}; take the tokenizer.json that the model was trained with",
                field=field,
                value=id,
            )
    vocabulary = backend.get_vocab(with_added_tokens=True)
    special = [*marked, *_extra(config)]
    backend.add_special_tokens([text for text in dict.fromkeys(special) if text in vocabulary and text not in known])


def named_for_the_model(config: Fields) -> dict[str, str]:
    """Name -> special token: each `<name>_token`, and the objects of tokens by name."""
    found = {key: _content(value) for key, value in config.values.items() if key.endswith("_token")}
    for field in BY_NAME:
        if isinstance(tokens := config.values.get(field), Mapping):
            found |= {str(name): _content(value) for name, value in tokens.items()}
    return {name: text for name, text in found.items() if text}


def token_text(fields: Fields, name: str) -> str | None:
    """A token of tokenizer_config.json: a string, or {"content": string, ...}."""
    if isinstance(fields.values.get(name), Mapping):
        inner = fields.inner(name)
        return None if inner is None else inner.text("content", longest=LONGEST)
    return fields.text(name, longest=LONGEST) if name in fields else None


def _content(value: Any) -> str:
    """Of a token: a string, or {"content": string, ...}; empty where it is none."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) and len(text) <= LONGEST else ""


def _numbered(config: Fields, named: Mapping[str, str], added: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    listed = config.inner("added_tokens_decoder")
    for key in listed.values if listed is not None else ():
        entry = listed.inner(key) if listed is not None else None
        if not (key.isascii() and key.isdigit() and len(key) < 10) or entry is None:
            raise config.wrong("added_tokens_decoder", "an object of tokens by id", f"not {shown(key)}")
        switches = {name: entry.flag(name, name == "normalized") for name in SWITCHES if name in entry}
        yield int(key), AddedToken(entry.text("content", longest=LONGEST), **switches)
    old = Fields(added, config.where.replace("tokenizer_config.json", "added_tokens.json"))
    special = {*named.values()}
    for text in old.values:
        is_special = text in special
        yield old.whole(text, low=0), AddedToken(text[:LONGEST], normalized=not is_special, special=is_special)


def _extra(config: Fields) -> Iterator[str]:
    """Further special tokens; of those by name, the tokens."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = config.values.get(key)
        if value is not None and not isinstance(value, list | Mapping):
            raise config.wrong(key, "a list of tokens")
        for item in value.values() if isinstance(value, Mapping) else value or ():
            text = item.get("content") if isinstance(item, Mapping) else item
            if not isinstance(text, str) or not 0 < len(text) <= LONGEST:
                raise config.wrong(key, "a list of tokens")
            yield text


def ids_without_added(backend: Backend, text: str) -> list[int]:
    """Ids of a text by the backend's parts, one after the other, without the one that finds added tokens."""
    normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    pieces = [(normal, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(normal)
    return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]
