"""Slots as bytes: any tensors, any parts; checksums that notice any word."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.worker.tensors.slot_bytes import CACHED_WORDS, SlotBytes, checksum, part_of

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int8)


def slots_of(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype], count: int, seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        size = dtype.itemsize
        raw = torch.randint(0, 256, (count, *shape[:-1], shape[-1] * size), generator=draw, dtype=torch.uint8)
        found.append(raw.view(dtype))
    return found


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 7)), min_size=1, max_size=3),
    st.lists(st.sampled_from(DTYPES), min_size=3, max_size=3),
    st.integers(1, 9),
)
def test_parts_make_the_slot(shapes: list[tuple[int, int]], dtypes: list[torch.dtype], parts: int) -> None:
    here = slots_of(list(shapes), dtypes[: len(shapes)], 3, 0)
    there = slots_of(list(shapes), dtypes[: len(shapes)], 2, 1)
    mine, theirs = SlotBytes(here), SlotBytes(there)
    assert mine.size == sum(tensor[0].numel() * tensor.dtype.itemsize for tensor in here)
    buffer = torch.full((mine.words,), -1, dtype=torch.int64)
    for part in range(parts):
        lo, hi = part_of(mine.words, part, parts)
        buffer[lo:hi] = theirs.read(1, (lo, hi))
    before = [tensor.view(torch.uint8).clone() for tensor in here]
    assert theirs.holds(1, buffer)
    mine.write(2, buffer)
    assert mine.holds(2, buffer)
    for tensor, other, old in zip(here, there, before, strict=True):
        assert torch.equal(tensor[2].view(torch.uint8), other[1].view(torch.uint8))
        assert torch.equal(tensor[:2].view(torch.uint8), old[:2])


@given(st.integers(0, 40), st.integers(1, 12))
def test_parts_cover_all_words_once(words: int, parts: int) -> None:
    cuts = [part_of(words, part, parts) for part in range(parts)]
    assert cuts[0][0] == 0 and cuts[-1][1] == words
    assert all(a[1] == b[0] for a, b in zip(cuts, cuts[1:], strict=False))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.data())
def test_one_word_changes_the_checksum(words: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.integers(-(2**63), 2**63 - 1).filter(lambda value: value != words[place]))
    changed = [*words[:place], other, *words[place + 1 :]]
    assert int(checksum(torch.tensor(words))) != int(checksum(torch.tensor(changed)))


def test_order_changes_the_checksum() -> None:
    assert int(checksum(torch.tensor([1, 2, 3]))) != int(checksum(torch.tensor([2, 1, 3])))


def test_a_slot_that_differs_is_seen() -> None:
    slots = SlotBytes([torch.zeros(2, 3, 5)])
    words = slots.read(0, (0, slots.words))
    words[-1] ^= 1 << 3
    assert not slots.holds(0, words)
    with pytest.raises(IndexError):
        slots.read(2, (0, 1))


@pytest.mark.parametrize("words", [0, 1, CACHED_WORDS - 1, CACHED_WORDS, CACHED_WORDS + 1, 3 * CACHED_WORDS + 5])
def test_a_checksum_of_any_length(words: int) -> None:
    """Against whole numbers without a limit."""
    found = torch.randint(-(2**63), 2**63 - 1, (words,), generator=torch.Generator().manual_seed(words))
    wanted = sum((2 * place + 1) * word for place, word in enumerate(found.tolist())) % 2**64
    assert int(checksum(found)) % 2**64 == wanted


@pytest.mark.parametrize("shapes", [((3, 5), (7,)), ((8,), (16, 2)), ((4,), (8,)), ((1,),)], ids=str)
def test_any_byte_that_differs_is_seen(shapes: tuple[tuple[int, ...], ...]) -> None:
    """Whether the tensors of a slot begin at whole words or not."""
    tensors = [torch.randint(0, 255, (2, *shape), dtype=torch.uint8) for shape in shapes]
    slots = SlotBytes(tensors)
    words = slots.read(1, (0, slots.words))
    assert slots.holds(1, words)
    for tensor in tensors:
        row = tensor[1].view(-1)
        for place in range(len(row)):
            row[place] ^= 1
            assert not slots.holds(1, words)
            row[place] ^= 1
    assert slots.holds(1, words)
