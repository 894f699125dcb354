"""Memory planning: where each buffer of a recording begins; buffers that never live together share memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from weft.model.program.ir import Buffer, Recording, Rows
from weft.parallel.layout.layout import Layout

ALIGNMENT = 4096
"""Bytes between the first rows of buffers: no page and no cache line of one belongs to another."""


@dataclass(frozen=True, slots=True)
class StepCapacity:
    """What a program has room for in a step of one dp group: rows, and how many of them are sampled."""

    rows: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where buffers begin, in bytes from the arena's start, and the arena's size."""

    of: dict[Buffer, int]
    nbytes: int


def place(recording: Recording, most: Callable[[Rows], int], scratch: Sequence[int]) -> tuple[Places, tuple[int, ...]]:
    """Places every buffer beside those that live at the same time; `most`: the rows to make room for.

    `scratch`: bytes that each instruction wants beside its operands while it runs; the second result says where.
    """
    spans = dict(_lives(recording))
    wanted = [(first, last, most(buffer.rows) * _row_bytes(buffer), buffer) for buffer, (first, last) in spans.items()]
    extra = [(index, index, size, index) for index, size in enumerate(scratch) if size]
    taken: list[tuple[int, int, int, int]] = []
    offsets: dict[Buffer | int, int] = {}
    every: list[tuple[int, int, int, Buffer | int]] = [*wanted, *extra]
    for first, last, size, key in sorted(every, key=lambda one: -one[2]):
        offsets[key] = _gap(size, [(lo, hi) for a, b, lo, hi in taken if a <= last and first <= b])
        taken.append((first, last, offsets[key], offsets[key] + size))
    of = {key: offset for key, offset in offsets.items() if isinstance(key, Buffer)}
    total = max((hi for *_, hi in taken), default=0)
    return Places(of, -(-total // ALIGNMENT) * ALIGNMENT), tuple(offsets.get(i, 0) for i in range(len(scratch)))


def _gap(size: int, taken: list[tuple[int, int]]) -> int:
    at = 0
    for lo, hi in sorted(taken):
        if at + size <= lo:
            break
        at = max(at, -(-hi // ALIGNMENT) * ALIGNMENT)
    return at


def _row_bytes(buffer: Buffer) -> int:
    return buffer.columns * buffer.dtype.itemsize


def _lives(recording: Recording) -> Iterator[tuple[Buffer, tuple[int, int]]]:
    """Buffers with the first and the last instruction that names them, or rows left of them; the logits live on."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for index, instruction in enumerate(recording.instructions):
        for view in instruction.touched:
            if not view.buffer.given:
                storage = view.buffer.storage
                spans[storage] = spans.get(storage, (index, index))[0], index
    end = len(recording.instructions)
    logits = recording.logits.buffer
    if logits in spans:
        spans[logits] = spans[logits][0], end
    yield from spans.items()


def room_of(layout: Layout, most: StepCapacity, rows: Rows) -> int:
    """Room for the runs [lo, hi): of an attention block's rows each rank has at most its share, rounded up; of the
    sampled ones it may have all. Blocks of one dp group share its rows."""
    size, share = layout.group_size, -(-most.rows // layout.attention.tp)
    every = most.sampled if rows.table == "sampled" else most.rows if layout.attention.cp > 1 else share * size
    ranks = [min(rows.hi, first + size) - max(rows.lo, first) for first in range(rows.lo // size * size, rows.hi, size)]
    return sum(min(each * share, every) for each in ranks)
