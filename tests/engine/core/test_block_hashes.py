"""Chained digests: the same in every process, different for any other tokens or any other order."""

from __future__ import annotations

import itertools
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from weft.engine.core.kv_cache.block_hashes import ROOT, chain_digest, extend_digests


def digests_of(ids: list[int], size: int) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, ids, len(ids) // size, size)
    return digests


def test_digests_do_not_depend_on_the_process() -> None:
    code = "from weft.engine.core.kv_cache.block_hashes import chain_digest; print(chain_digest(b'', [1, 2, 3]).hex())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert runs == {chain_digest(ROOT, [1, 2, 3]).hex()}


def test_salts_share_no_digest() -> None:
    found: list[bytes] = []
    for salt in (None, "a", "b", "\udc80"):
        digests: list[bytes] = []
        extend_digests(digests, [1, 2, 3, 4, 5], 2, 2, salt)
        again: list[bytes] = []
        extend_digests(again, [1, 2], 1, 2, salt)
        extend_digests(again, [1, 2, 3, 4], 2, 2, salt)
        assert again == digests, "in whichever parts"
        found += digests
    assert len({*found}) == 8


def test_no_two_short_sequences_share_a_digest() -> None:
    seen: dict[bytes, tuple[int, ...]] = {}
    for length in range(1, 7):
        for ids in itertools.product((0, 1, 255, 256), repeat=length):
            for digest, end in zip(digests_of(list(ids), 2), range(2, length + 1, 2), strict=True):
                assert seen.setdefault(digest, ids[:end]) == ids[:end]
    assert len(seen) == 4**2 + 4**4 + 4**6


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.integers(1, 7), st.integers(0, 40))
def test_extending_step_by_step_is_digesting_at_once(ids: list[int], size: int, first: int) -> None:
    digests: list[bytes] = []
    extend_digests(digests, ids, min(first, len(ids)) // size, size)
    extend_digests(digests, ids, len(ids) // size, size)
    assert digests == digests_of(ids, size)
    assert len(digests) == len(ids) // size


def test_extending_hashes_new_blocks_only() -> None:
    ids, digests = list(range(64)), [b"known"] * 3
    extend_digests(digests, ids, 4, 16)
    assert digests[:3] == [b"known"] * 3 and digests[3] == chain_digest(b"known", ids[48:])
