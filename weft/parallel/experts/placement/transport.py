"""From an old placement to a new one while serving: which parts of which slots move before which step, layer by layer.

The old placement of a layer is valid until all of its parts have arrived; then the layer switches, before any part of
the next layer moves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weft.base.step.experts import ExpertMove, ExpertSwitch, ExpertWork
from weft.parallel.experts.placement.placement import ExpertPlacement, Transfer


@dataclass(frozen=True, slots=True)
class TransferRate:
    """How fast slots move: each in `parts` parts, and at most `parts_per_step` to or from a rank before one step."""

    parts: int = 1
    parts_per_step: int = 1

    @classmethod
    def of_bytes(cls, slot_bytes: int, bytes_per_step: int) -> TransferRate:
        """The rate at which no rank receives or sends more than `bytes_per_step` a step; a slot has `slot_bytes`."""
        parts = max(1, -(-slot_bytes // bytes_per_step))
        return cls(parts, max(1, bytes_per_step // max(1, -(-slot_bytes // parts))))


def works(
    old: ExpertPlacement, new: ExpertPlacement, layers: Sequence[int], pace: TransferRate
) -> Iterator[ExpertWork]:
    """What happens before each step, in order, until `new` holds; row i of the placements is layer layers[i]."""
    by_row: dict[int, list[Transfer]] = {}
    for transfer in new.transfers(old):
        by_row.setdefault(transfer.layer, []).append(transfer)
    for row, transfers in by_row.items():
        for moves in _batches(transfers, layers[row], old.slots_per_rank, pace):
            yield ExpertWork(moves=moves)
        yield ExpertWork(switches=[ExpertSwitch(layers[row], new.phy2log[row].tolist())])


def _batches(
    transfers: Sequence[Transfer], layer: int, slots_per_rank: int, pace: TransferRate
) -> Iterator[list[ExpertMove]]:
    left = deque((transfer, part) for transfer in transfers for part in range(pace.parts))
    while left:
        taken: list[ExpertMove] = []
        busy: Counter[tuple[str, int]] = Counter()
        waiting: deque[tuple[Transfer, int]] = deque()
        for transfer, part in left:
            to, origin = transfer.slot // slots_per_rank, transfer.source // slots_per_rank
            ends = [("to", to)] + ([("from", origin)] if origin != to else [])
            if any(busy[end] >= pace.parts_per_step for end in ends):
                waiting.append((transfer, part))
                continue
            busy.update(ends)
            taken.append(ExpertMove(layer, transfer.slot, transfer.source, part, pace.parts))
        left = waiting
        yield taken
