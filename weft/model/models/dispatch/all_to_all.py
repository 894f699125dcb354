"""All-to-all dispatch: a row travels to the ep positions that it chose a slot of, and one answer a choice travels back.

Residual rows are taken scattered; each rank routes its own. The block's ranks then send each other all choices (an
all_gather whose sizes the row table gives), so that every rank knows which rank answers what, with the same turns of
replicas as in every other form, and nothing has to be counted on the way. Rows go once to a position, however many of
their choices it answers. With expert tp t each of the position's t ranks gets them and gives an addend of every answer.

Order of addition: the owner adds the addends of an answer in rank order, then a row's answers in the order of its
choices, best first, weighed, in fp32 at least. Where a slot lies, how many replicas an expert has and which rows share
the step change no bit of that: with expert tp 1 it is what one rank computes.

Sizes of messages are content. A rank reads them from its device once a layer (`counted_splits`); nothing else waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.model.layers import Experts
from weft.model.models.dispatch.base import TokenDispatcher
from weft.model.models.transitions import Transitions
from weft.parallel.layout.routed import RoutedBlock, Splits
from weft.parallel.layout.rows import RowTable


@dataclass(frozen=True, slots=True)
class Choices:
    """What the block's rows chose, on every rank: `slots` and `weights` [rows of the block, k], `positions` that hold
    the slots; rows [starts[i], starts[i + 1]) are those of the rank at place i, `place` is this rank's own."""

    block: RoutedBlock
    slots: Tensor
    weights: Tensor
    positions: Tensor
    starts: tuple[int, ...]
    place: int

    def own(self, values: Tensor) -> Tensor:
        """The part of [rows of the block, ..] that belongs to this rank's rows."""
        return values[self.starts[self.place] : self.starts[self.place + 1]]

    @property
    def here(self) -> Tensor:
        """Whether this rank's position answers a choice: [rows of the block, k]."""
        return self.positions == self.block.position(self.place)

    @property
    def sent(self) -> Tensor:
        """Whether an own row goes to a position: [own rows, ep]."""
        own = self.own(self.positions)
        return torch.zeros(len(own), len(self.block.slots), dtype=torch.bool, device=own.device).scatter_(1, own, True)


SplitsOf = Callable[[Choices], Splits]


def counted_splits(choices: Choices) -> Splits:
    """The splits that the choices make; waits for the device."""
    ends = torch.tensor(choices.starts, device=choices.slots.device)
    here, own = choices.here, choices.own(choices.positions)
    rows_in = _per_run(here.any(1), ends)
    answers_out = _per_run(here.sum(1), ends)
    rows_out = choices.sent.sum(0)
    answers_in = torch.zeros_like(rows_out).index_add_(0, own.flatten(), torch.ones_like(own).flatten())
    sizes = [rows_out, answers_in, rows_in, answers_out]
    counts = torch.cat(sizes).tolist()
    ep, size = len(choices.block.slots), choices.block.size
    out, back, come = counts[:ep], counts[ep : 2 * ep], counts[2 * ep : 2 * ep + size]
    return Splits(tuple(out), tuple(back), tuple(come), tuple(counts[2 * ep + size :]))


def uniform_splits(choices: Choices) -> Splits:
    """The splits of even choices, whatever the rows chose: for a rank whose tensors have no content."""
    rows = [hi - lo for lo, hi in zip(choices.starts, choices.starts[1:], strict=False)]
    return choices.block.uniform_splits(rows, choices.place)


def _per_run(values: Tensor, ends: Tensor) -> Tensor:
    """Sums of values [rows] over the runs between `ends`."""
    total = torch.cat((values.new_zeros(1, dtype=torch.int64), values.cumsum(0)))
    return total[ends].diff()


class AllToAll(TokenDispatcher):
    """One all_gather of choices and two all_to_all a layer."""

    name = "all_to_all"

    def __init__(self, transitions: Transitions, block: RoutedBlock, splits: SplitsOf = counted_splits) -> None:
        self._transitions, self._block, self._splits = transitions, block, splits
        rank = transitions.comm.rank
        self._place = rank % block.size
        self._first = rank - self._place
        self._group = tuple(range(self._first, self._first + block.size))

    def run(self, experts: Experts, x: Tensor, rows: RowTable) -> Tensor:
        """As `TokenDispatcher.run`."""
        own = self._transitions.move("experts.in", x, rows)
        chosen, weights = experts.route(own)
        choices = self._send_choices(experts, chosen, weights, rows)
        splits = self._splits(choices)
        received = self._send_rows(own, choices, splits)
        answers = self._answer(experts, received, choices, splits)
        found = self._send_answers(answers, choices, splits)
        return self._transitions.move("experts.out", experts.weigh(found, weights).to(own.dtype), rows)

    def _send_choices(self, experts: Experts, chosen: Tensor, weights: Tensor, rows: RowTable) -> Choices:
        """The choices of all rows of the block; weights travel as the words that they are."""
        words = torch.cat((chosen.to(torch.int32), _words(weights, torch.int32)), 1)
        sent = self._transitions.move_columns("experts.choices", words, rows)
        k = chosen.shape[1]
        slots = experts.slots(sent[:, :k].long())
        base = rows.start(self._first)
        starts = tuple(rows.start(self._first + place) - base for place in range(self._block.size + 1))
        edges = torch.tensor(self._block.slots, device=slots.device).cumsum(0)
        positions = torch.bucketize(slots, edges, right=True)
        return Choices(self._block, slots, _words(sent[:, k:], weights.dtype), positions, starts, self._place)

    def _send_rows(self, x: Tensor, choices: Choices, splits: Splits) -> Tensor:
        """The rows that chose a slot here, of the whole block in its order."""
        sent = _flagged(choices.sent.t(), sum(splits.rows_out)) % max(1, len(x))
        received = x.new_empty(sum(splits.rows_in), x.shape[1])
        parts = _cut(x[sent], splits.rows_out)
        self._exchange("experts.dispatch", self._of_members(parts), _cut(received, splits.rows_in))
        return received

    def _answer(self, experts: Experts, received: Tensor, choices: Choices, splits: Splits) -> Tensor:
        """An answer for each choice of a slot here [choices, H], in the order of the block's rows."""
        here = choices.here
        flat = _flagged(here, sum(splits.answers_out))
        row_here = here.any(1).cumsum(0) - 1
        rows = received[row_here[flat // choices.slots.shape[1]]]
        return experts.answers(rows, choices.slots.flatten()[flat], choices.weights.flatten()[flat])

    def _send_answers(self, answers: Tensor, choices: Choices, splits: Splits) -> Tensor:
        """Answers of all choices of the own rows [n, k, H]; a choice's addends summed in rank order."""
        own = choices.own(choices.positions)
        addends = [answers.new_empty(own.numel(), answers.shape[1]) for _ in range(self._block.tp)]
        parts = [_cut(addend, splits.answers_in) for addend in addends]
        outs = [parts[place % self._block.tp][self._block.position(place)] for place in range(self._block.size)]
        self._exchange("experts.combine", _cut(answers, splits.answers_out), outs)
        total = addends[0]
        if len(addends) > 1:
            total = total.to(torch.promote_types(total.dtype, torch.float32))
            for addend in addends[1:]:
                total = total + addend
        return torch.empty_like(total).index_copy_(0, _arrival(own), total).view(*own.shape, answers.shape[1])

    def _of_members(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Per rank of the block what its position gets."""
        return [parts[self._block.position(place)] for place in range(self._block.size)]

    def _exchange(self, name: str, xs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        self._transitions.exchange(name, xs, outs, self._group)


def _words(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of x [n, m] as another dtype, row by row; a copy, for a view of few rows may have any stride."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x).view(dtype)


def _arrival(positions: Tensor) -> Tensor:
    """The choices of rows [n, k], flat, in the order in which their answers come: position by position."""
    return torch.sort(positions.flatten(), stable=True).indices


def _cut(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Views of x, `sizes[i]` rows each."""
    return torch.split(x, list(sizes))


def _flagged(flags: Tensor, count: int) -> Tensor:
    """Places of the `count` flags that are set, in the flat order of `flags`; does not wait for the device."""
    return torch.sort((~flags).flatten().to(torch.uint8), stable=True).indices[:count]
