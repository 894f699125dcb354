"""Rows on their way to routed experts: which form of dispatch a layout runs, and how many rows it moves. Numbers only.

Two forms. *all_gather*: every rank of an expert block (tp * ep ranks, tp fastest) gets every row of the block, and a
reduce_scatter brings the sums back: transitions between placements, whatever the rows chose. *all_to_all*: a rank gets
a row if the row chose a slot of its ep position, and sends one answer for each such choice back. What that moves
depends on the choices; here stand its sizes where they are even (`uniform_splits`), and the most that can happen.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from math import lcm, prod
from typing import Literal, Self

from weft.parallel.layout.layout import ExpertsLayout, Layout
from weft.parallel.layout.splits import even_splits

Form = Literal["all_gather", "all_to_all"]
DEEPEP = "deepep"
"""Begins the names of DeepEP's modes (https://github.com/deepseek-ai/DeepEP): auto, normal, low latency."""
NOMINAL_ROWS = 64
"""Rows of a dp group at which `auto` compares: a full decode step of an engine with default limits."""
COLUMNS_OF_A_CALL = 8192
"""What a collective costs beyond its bytes, in columns: 2 us at 16 GB/s, as between ranks that share memory."""
CALLS = {"all_gather": 2, "all_to_all": 3}


@dataclass(frozen=True, slots=True)
class Routing:
    """What dispatch depends on in a model: columns of a row, and slots that it chooses."""

    hidden: int
    top_k: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The form that a layout runs, and why, for a person."""

    form: Form
    reason: str


@dataclass(frozen=True, slots=True)
class Splits:
    """What one rank exchanges in one layer: own rows that go to each ep position and answers that come back from it
    (from each of its tp ranks); rows that come from each rank of the block, and answers that go back to it."""

    rows_out: tuple[int, ...]
    answers_in: tuple[int, ...]
    rows_in: tuple[int, ...]
    answers_out: tuple[int, ...]


@dataclass(frozen=True)
class RoutedBlock:
    """An expert block as dispatch sees it: `slots` of every ep position, each on `tp` ranks."""

    tp: int
    slots: tuple[int, ...]
    top_k: int

    @property
    def size(self) -> int:
        """Ranks of the block."""
        return self.tp * len(self.slots)

    def position(self, place: int) -> int:
        """The ep position of a rank, by its place in the block."""
        return place // self.tp

    @cached_property
    def chances(self) -> tuple[Fraction, ...]:
        """That a row chooses a slot of each position, if its choices are any `top_k` of the block's slots alike."""
        every = sum(self.slots)
        picks = range(min(self.top_k, every))
        missed = {
            n: prod((Fraction(max(0, every - n - i), every - i) for i in picks), start=Fraction(1))
            for n in set(self.slots)
        }
        return tuple(1 - missed[n] for n in self.slots)

    def uniform_splits(self, rows: Sequence[int], place: int) -> Splits:
        """Of the rank at `place`, where choices are spread evenly over slots; `rows` of every rank of the block.

        Each rank's expected rows, and its choices, are split over positions in whole numbers, every rank beginning with
        another position, so that sums stay right however few the rows are.
        """
        sent = _uniform(self, tuple(rows))
        (rows_out, answers_in), here = sent[place], self.position(place)
        return Splits(
            rows_out=rows_out,
            answers_in=answers_in,
            rows_in=tuple(to[here] for to, _ in sent),
            answers_out=tuple(back[here] for _, back in sent),
        )

    def received(self, splits: Splits, place: int) -> tuple[int, int]:
        """(rows, answers) that the rank at `place` receives from other ranks."""
        rows = sum(splits.rows_in) - splits.rows_in[place]
        own = splits.answers_in[self.position(place)]
        return rows, self.tp * sum(splits.answers_in) - own

    def uniform_received(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """`received` of `uniform_splits`, for every rank of the block: what is alike is added up once."""
        sent = _uniform(self, tuple(rows))
        arriving = [sum(to) for to in zip(*(to for to, _ in sent), strict=True)]
        found = []
        for place, (to, back) in enumerate(sent):
            here = self.position(place)
            found.append((arriving[here] - to[here], self.tp * sum(back) - back[here]))
        return found

    def most_received(self, rows: Sequence[int], place: int) -> tuple[int, int]:
        """(rows, answers) that it can receive at most: all rows choose its slots, its own rows all others."""
        away = min(self.top_k, sum(self.slots) - self.slots[self.position(place)])
        return sum(rows) - rows[place], rows[place] * (self.tp * self.top_k - (self.top_k - away))


@lru_cache(maxsize=64)
def _uniform(block: RoutedBlock, rows: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Per rank of the block: its rows to each position, and the answers that it has from there."""
    rows_to = _Dealer.of(block.chances)
    answers_from = _Dealer.of(tuple(Fraction(n * block.top_k, sum(block.slots)) for n in block.slots))
    return tuple(
        (rows_to.split(count, first), answers_from.split(count, first))
        for first, count in zip(_firsts(block, rows), rows, strict=True)
    )


def _firsts(block: RoutedBlock, rows: Sequence[int]) -> list[int]:
    """The position that each rank's rows begin with: its own, or, where ranks have none, in turn over those with rows.

    Ranks with rows at even distances would else all reach the same positions.
    """
    if all(rows):
        return [block.position(place) for place in range(len(rows))]
    turns = accumulate((count > 0 for count in rows[:-1]), initial=0)
    return [turn % len(block.slots) for turn in turns]


@dataclass(frozen=True)
class _Dealer:
    """Rows split over positions by shares, which are `parts` over `unit`."""

    parts: tuple[int, ...]
    unit: int
    even: bool
    """All shares are equal: then the counts do not depend on the position that comes first."""
    known: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, shares: Sequence[Fraction]) -> Self:
        unit = lcm(*(share.denominator for share in shares))
        parts = tuple(share.numerator * (unit // share.denominator) for share in shares)
        return cls(parts, unit, len(set(parts)) == 1)

    def split(self, rows: int, first: int) -> tuple[int, ...]:
        """rows * shares in whole numbers, whose running sums from position `first` on are rounded half up."""
        key = (rows, 0 if self.even else first)
        if key not in self.known:
            self.known[key] = self._rounded(*key)
        found = self.known[key]
        return found[len(found) - first :] + found[: len(found) - first]

    def _rounded(self, rows: int, first: int) -> tuple[int, ...]:
        """The first number is of position `first`."""
        parts = (rows * part for part in self.parts[first:] + self.parts[:first])
        ends = [(2 * end + self.unit) // (2 * self.unit) for end in accumulate(parts, initial=0)]
        return tuple(hi - lo for lo, hi in pairwise(ends))


def routed_block(experts: ExpertsLayout, top_k: int) -> RoutedBlock:
    """The block of a layout's experts."""
    return RoutedBlock(experts.tp, tuple(hi - lo for lo, hi in even_splits(experts.slots, experts.ep)), top_k)


def dispatch_of(layout: Layout, experts: ExpertsLayout, routing: Routing) -> Dispatch:
    """The form that `experts.dispatch` asks for; `auto` takes the all_to_all where it saves a quarter.

    Compared is what a rank receives in a layer at NOMINAL_ROWS rows in every dp group, in columns, each call counted as
    COLUMNS_OF_A_CALL more. Decided once per layout, never per step: the forms add in different orders, and a row's
    answer must not depend on how many rows share its step.
    """
    block = routed_block(experts, routing.top_k)
    if block.size == 1:
        return Dispatch("all_gather", "an expert block is one rank: no row leaves it")
    if experts.dispatch.startswith(DEEPEP):
        return Dispatch("all_to_all", f"the nearest to {experts.dispatch}")
    if experts.dispatch != "auto":
        return Dispatch("all_to_all" if experts.dispatch == "all_to_all" else "all_gather", "as given")
    rows = max(1, NOMINAL_ROWS // layout.attention.tp)
    gathered, exchanged = _columns(block, routing, rows)
    form: Form = "all_to_all" if 4 * exchanged <= 3 * gathered else "all_gather"
    saved = "a quarter or more is saved" if form == "all_to_all" else "less than a quarter would be saved"
    reason = (
        f"auto: at {NOMINAL_ROWS} rows in a dp group, all_to_all costs a rank {exchanged:,} columns a layer and "
        f"all_gather {gathered:,} ({COLUMNS_OF_A_CALL:,} for each call included): {saved}"
    )
    return Dispatch(form, reason)


def _columns(block: RoutedBlock, routing: Routing, rows: int) -> tuple[int, int]:
    """(all_gather, all_to_all): columns that a rank receives in a layer, calls included; two columns a choice."""
    others = (block.size - 1) * rows
    splits = block.uniform_splits([rows] * block.size, 0)
    moved = sum(block.received(splits, 0)) * routing.hidden + others * 2 * routing.top_k
    gathered = 2 * others * routing.hidden
    return gathered + CALLS["all_gather"] * COLUMNS_OF_A_CALL, moved + CALLS["all_to_all"] * COLUMNS_OF_A_CALL
