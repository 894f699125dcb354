"""What each token id stands for in bytes, so that any run of ids can be decoded piece by piece.

Two spellings of vocabularies exist among the supported families: byte-level (each byte of the text is one printable
character of the token) and SentencePiece's ("▁" for a space, "<0x0A>" for a byte). Others are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from weft.base.errors import CheckpointError

SPACE = "▁"
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class Lead(StrEnum):
    """What decoding drops at the start of a text, because encoding put it there."""

    NOTHING = "nothing"
    ONE_SPACE = "one space"
    SPACES_OF_FIRST = "spaces of the first token"


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a vocabulary's tokens are spelled. byte_level excludes byte_fallback."""

    byte_level: bool
    byte_fallback: bool = False
    lead: Lead = Lead.NOTHING


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def spelling_of(backend: Backend) -> Spelling:
    """The spelling that `backend`'s decoder undoes; CheckpointError for a decoder that is neither kind."""
    if backend.decoder is None:
        raise CheckpointError("tokenizer: has no decoder")
    parts = _flat(json.loads(backend.decoder.__getstate__()))
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return Spelling(byte_level=True)
    if kinds == ["Metaspace"] and parts[0]["replacement"] == SPACE:
        never = parts[0].get("prepend_scheme") == "never"
        return Spelling(False, lead=Lead.NOTHING if never else Lead.SPACES_OF_FIRST)
    if kinds[:1] == ["Replace"] and parts[0]["pattern"] == {"String": SPACE} and parts[0]["content"] == " ":
        if kinds[1:] == ["ByteFallback", "Fuse"]:
            return Spelling(False, byte_fallback=True)
        if kinds[1:3] == ["ByteFallback", "Fuse"] and parts[3:] == [STRIP]:
            return Spelling(False, byte_fallback=True, lead=Lead.ONE_SPACE)
    shown = " + ".join(kinds)
    raise CheckpointError(f"tokenizer: decoder {shown} is not supported; supported: ByteLevel, SentencePiece's")


def _flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [part for inner in decoder["decoders"] for part in _flat(inner)]


class Pieces:
    """Bytes of each token id, computed at first use."""

    def __init__(self, backend: Backend) -> None:
        self.spelling = spelling_of(backend)
        self._backend = backend
        self._added = {id: token.content for id, token in backend.get_added_tokens_decoder().items()}
        self._alphabet = byte_alphabet()
        self._known: dict[int, bytes] = {}

    def __getitem__(self, id: int) -> bytes:
        """Bytes of token `id`; none for an id that the vocabulary does not have (padding of the embedding)."""
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._spelled_out(id)
        return found

    def _spelled_out(self, id: int) -> bytes:
        if (added := self._added.get(id)) is not None:
            return added.encode()
        token = self._backend.id_to_token(id) if 0 <= id < 1 << 32 else None
        if token is None:
            return b""
        if self.spelling.byte_level:
            codes = [self._alphabet.get(char) for char in token]
            return token.encode() if None in codes else bytes(code for code in codes if code is not None)
        if self.spelling.byte_fallback and (byte := BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return token.replace(SPACE, " ").encode()

    def first(self, count: int) -> list[bytes]:
        """The bytes of ids 0 to `count` - 1, as one by one, in a fraction of the time."""
        found = [b""] * count
        byte_of = {ord(char): byte for char, byte in self._alphabet.items()}
        for token, id in self._backend.get_vocab(with_added_tokens=False).items():
            if id >= count or id in self._added:
                continue
            if not self.spelling.byte_level or not self._alphabet.keys() >= {*token}:
                found[id] = self[id]
            else:
                found[id] = token.translate(byte_of).encode("latin-1")
        for id, token in self._added.items():
            if id < count:
                found[id] = token.encode()
        return found

    @property
    def added_ids(self) -> Iterable[int]:
        """Tokens that were added to the vocabulary; they are matched whole in a text."""
        return self._added.keys()

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens that stand for a byte each, where they are used for what the vocabulary has no token of."""
        if not self.spelling.byte_fallback:
            return frozenset()
        found = (self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(id for id in found if id is not None)

    def lead_dropped(self, pieces: list[bytes]) -> list[bytes]:
        """`pieces` of a text's very start, without what encoding put there."""
        lead = self.spelling.lead
        if not pieces or lead is Lead.NOTHING:
            return pieces
        first = pieces[0].removeprefix(b" ") if lead is Lead.ONE_SPACE else pieces[0].replace(b" ", b"")
        return [first, *pieces[1:]]
