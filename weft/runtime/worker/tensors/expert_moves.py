"""What a rank does with expert slots: counts chosen experts, receives new slots beside the old, adopts placements.

Obeys plans; decides nothing. Every block of expert ranks is a copy of the others and does the same among its own ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from weft.base.errors import WeftError
from weft.base.step.experts import ExpertMove, ExpertSwitch, ExpertWork
from weft.compute.comm.base import Comm
from weft.model.layers import Experts
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.runtime.worker.tensors.slot_bytes import SlotBytes, checksum, part_of


@dataclass(frozen=True, slots=True)
class Block:
    """The ranks that share this rank's copy of the experts, and which of them own which slots."""

    ranks: tuple[int, ...]
    position: int
    tp: int
    slots_per_rank: int

    @classmethod
    def of(cls, layout: Layout, rank: int) -> Block:
        """The block of `rank`."""
        experts = layout.experts
        assert experts is not None
        size = experts.tp * experts.ep
        first = rank // size * size
        return cls(tuple(range(first, first + size)), rank - first, experts.tp, experts.slots // experts.ep)

    def owner(self, slot: int) -> int:
        """Position of the rank that this rank gets `slot` from, or sends it to: its own column of every expert."""
        return slot // self.slots_per_rank * self.tp + self.position % self.tp

    def local(self, slot: int) -> int:
        """The slot's number on its rank."""
        return slot % self.slots_per_rank


@dataclass(slots=True)
class _Incoming:
    """A layer's new slots: the row of the buffer that each is received in, and which parts it has."""

    layer: int
    rows: dict[int, int] = field(default_factory=dict)
    parts: dict[int, set[int]] = field(default_factory=dict)
    wanted: dict[int, int] = field(default_factory=dict)


class ExpertMover:
    """One rank's part in the balancing of `layers`, by number. `staged`: slots of a layer that it can receive before
    the layer switches; 0: nothing ever moves. Their memory is taken at once."""

    def __init__(
        self,
        layers: Mapping[int, Experts],
        layout: Layout,
        comm: Comm,
        staged: int,
        *,
        count: bool,
        of_model: Sequence[int] | None = None,
    ) -> None:
        """`of_model`: numbers of all layers with experts, where other pipeline stages have some of them; `comm`: of the
        rank's stage."""
        self._layers, self._comm, self._of_model = dict(layers), comm, of_model or sorted(layers)
        self._numbers = sorted(layers)
        self._bytes = {layer: SlotBytes(experts.held) for layer, experts in layers.items()} if staged else {}
        self._block = Block.of(layout, comm.rank) if layers else None
        self._tallies = self._count() if count and layers else None
        words = max((slots.words for slots in self._bytes.values()), default=0)
        device = next(iter(layers.values())).tables.slot_of.device if layers else torch.device("cpu")
        self._buffer = torch.empty(staged, words, dtype=torch.int64, device=device)
        self._incoming: _Incoming | None = None

    def _count(self) -> Tensor | None:
        """Every rank of a block sees all rows of the block: the first counts them."""
        assert self._block is not None
        if self._block.position:
            return None
        first = self._layers[self._numbers[0]]
        tallies = torch.zeros(
            len(self._numbers), first.moe.num_experts, dtype=torch.int64, device=first.tables.slot_of.device
        )
        for tally, layer in zip(tallies, self._numbers, strict=True):
            self._layers[layer].tables.tally = tally
        return tallies

    def counts(self) -> IntArray:
        """Rows that chose each expert since the last call, [layers of the model, experts]; zeros where others count
        them."""
        experts = self._layers[self._numbers[0]].moe.num_experts if self._numbers else 0
        found: IntArray = np.zeros((len(self._of_model), experts), dtype=np.int64)
        if self._tallies is not None:
            found[np.isin(self._of_model, self._numbers)] = self._tallies.cpu().numpy()
            self._tallies.zero_()
        return found

    def run(self, work: ExpertWork) -> None:
        """Before a step; what other pipeline stages have is theirs to do. WeftError: weights differ from what was sent,
        or a layer is to switch too early."""
        for switch in work.switches:
            if switch.layer in self._layers:
                self._switch(switch)
        if moves := [move for move in work.moves if move.layer in self._layers]:
            self._move(moves)

    def _move(self, moves: Sequence[ExpertMove]) -> None:
        for move in moves:
            self._expect(move)
        block = self._block
        assert block is not None
        outgoing: list[list[Tensor]] = [[] for _ in block.ranks]
        arriving: list[list[ExpertMove]] = [[] for _ in block.ranks]
        for move in moves:
            origin, to = block.owner(move.source), block.owner(move.slot)
            if origin == block.position:
                words = self._read(move)
                outgoing[to] += [words, checksum(words)]
            if to == block.position:
                arriving[origin].append(move)
        mine = outgoing[block.position]
        outgoing[block.position] = []
        self._keep(arriving[block.position], torch.cat(mine) if mine else self._nothing(), block.position)
        arriving[block.position] = []
        if len(block.ranks) > 1 and self._crosses(moves):
            self._exchange(outgoing, arriving)

    def _crosses(self, moves: Sequence[ExpertMove]) -> bool:
        """Whether anything goes from rank to rank; the same answer on every rank of a block."""
        block = self._block
        assert block is not None
        return any(move.slot // block.slots_per_rank != move.source // block.slots_per_rank for move in moves)

    def _exchange(self, outgoing: Sequence[Sequence[Tensor]], arriving: Sequence[Sequence[ExpertMove]]) -> None:
        assert self._block is not None
        sent = [torch.cat(list(parts)) if parts else self._nothing() for parts in outgoing]
        sizes = [sum(self._words(move) + 1 for move in moves) for moves in arriving]
        received = [self._buffer.new_empty(size) for size in sizes]
        self._comm.all_to_all(sent, received, self._block.ranks)
        for position, (moves, words) in enumerate(zip(arriving, received, strict=True)):
            self._keep(moves, words, position)

    def _keep(self, moves: Sequence[ExpertMove], words: Tensor, origin: int) -> None:
        """Parts that came from one rank, each followed by the checksum that it had there."""
        at = 0
        for move in moves:
            lo, hi = part_of(self._bytes[move.layer].words, move.part, move.parts)
            place = self._row(move)[lo:hi]
            place.copy_(words[at : at + hi - lo])
            self._compare(move, checksum(place), words[at + hi - lo : at + hi - lo + 1], origin)
            at += hi - lo + 1

    def _compare(self, move: ExpertMove, here: Tensor, there: Tensor, origin: int) -> None:
        if not torch.equal(here, there):
            assert self._block is not None
            raise WeftError(
                f"layer {move.layer}, expert slot {move.slot}: part {move.part} of {move.parts} of the weights differs"
                f" from slot {move.source} of rank {self._block.ranks[origin]}, where it came from: checksum"
                f" {int(here)}, there {int(there)}"
            )

    def _expect(self, move: ExpertMove) -> None:
        """Gives the slot a row of the buffer, if it is one of this rank's; another layer's rows are free again."""
        assert self._block is not None
        if self._incoming is None or self._incoming.layer != move.layer:
            self._incoming = _Incoming(move.layer)
        if self._block.owner(move.slot) != self._block.position:
            return
        incoming = self._incoming
        if move.slot not in incoming.rows:
            if len(incoming.rows) == len(self._buffer):
                raise WeftError(
                    f"layer {move.layer}, expert slot {move.slot}: this rank has room for {len(self._buffer)} slots"
                    " that move at once"
                )
            incoming.rows[move.slot] = len(incoming.rows)
            incoming.parts[move.slot] = set()
            incoming.wanted[move.slot] = move.parts
        incoming.parts[move.slot].add(move.part)

    def _row(self, move: ExpertMove) -> Tensor:
        assert self._incoming is not None
        return self._buffer[self._incoming.rows[move.slot]]

    def _read(self, move: ExpertMove) -> Tensor:
        assert self._block is not None
        slots = self._bytes[move.layer]
        return slots.read(self._block.local(move.source), part_of(slots.words, move.part, move.parts))

    def _words(self, move: ExpertMove) -> int:
        lo, hi = part_of(self._bytes[move.layer].words, move.part, move.parts)
        return hi - lo

    def _nothing(self) -> Tensor:
        return self._buffer.new_empty(0)

    def _switch(self, switch: ExpertSwitch) -> None:
        incoming = self._incoming if self._incoming is not None and self._incoming.layer == switch.layer else None
        slots = {} if incoming is None else incoming.rows
        for slot, row in slots.items():
            assert incoming is not None and self._block is not None
            if len(incoming.parts[slot]) != incoming.wanted[slot]:
                raise WeftError(
                    f"layer {switch.layer}, expert slot {slot}: {len(incoming.parts[slot])} of"
                    f" {incoming.wanted[slot]} parts have come, it cannot switch"
                )
            words = self._buffer[row]
            held, local = self._bytes[switch.layer], self._block.local(slot)
            held.write(local, words[: held.words])
            if not held.holds(local, words[: held.words]):
                raise WeftError(f"layer {switch.layer}, expert slot {slot}: the weights differ from those received")
        self._layers[switch.layer].place(switch.experts)
        self._incoming = None
