"""Chained hashes of token blocks. Equal digests mean equal tokens from position 0 on, in every process and run."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

ROOT = b""
"""Parent of a first block."""


def root_of(salt: str | None) -> bytes:
    """Parent of the first block of requests with this salt: prefixes of different salts have no digest in common."""
    return (
        ROOT
        if salt is None
        else blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32, person=b"salt").digest()
    )


def chain_digest(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Digest of a block that follows the block with digest `parent`; ids as little-endian 32-bit numbers."""
    words = array("I", token_ids)
    if sys.byteorder == "big":
        words.byteswap()
    return blake2b(parent + words.tobytes(), digest_size=32).digest()


def extend_digests(
    digests: list[bytes], token_ids: Sequence[int], blocks: int, block_size: int, salt: str | None = None
) -> None:
    """Appends until `digests` covers the first `blocks` full blocks of `token_ids`, under `salt`."""
    for index in range(len(digests), blocks):
        parent = digests[index - 1] if index else root_of(salt)
        digests.append(chain_digest(parent, token_ids[index * block_size : (index + 1) * block_size]))
