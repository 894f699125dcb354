"""Tokens that tokenizer.json lacks and tokenizer_config.json, special_tokens_map.json or added_tokens.json has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from weft.errors import FieldError
from weft.fields import Fields, shown

SWITCHES = ("single_word", "lstrip", "rstrip", "normalized", "special")
MOST_ADDED = 1 << 17
LONGEST = 4096
"""Characters of a token."""


def add_missing(backend: Backend, config: Fields, named: Mapping[str, str], added: Mapping[str, Any]) -> None:
    """Adds to `backend` what `config` (tokenizer_config.json), its `named` tokens and added_tokens.json (`added`) have
    and it lacks. FieldError: a token with another id than theirs, or what is no token."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for id, token in sorted(_numbered(config, named, added), key=lambda pair: pair[0]):
        if token.content in known:
            continue
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != id:
            raise FieldError(
                f"{config.where}: added token {shown(token.content)} has id {id}, tokenizer.json gives it {found}",
                field="added_tokens_decoder",
                value=id,
            )
    vocabulary = backend.get_vocab(with_added_tokens=True)
    special = [*named.values(), *_extra(config)]
    backend.add_special_tokens([text for text in dict.fromkeys(special) if text in vocabulary and text not in known])


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
