"""Expert slots: which routed expert each physical slot of an expert block holds.

A block of experts has tp * ep ranks, tp fastest; each ep position has a contiguous run of its slots. A slot
holds one expert (or its tp-th part on each of tp ranks); an expert may have several slots (replicas), never none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from weft.base.errors import LayoutError
from weft.parallel.layout.layout import ExpertsLayout
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.splits import even_splits

SlotMap = tuple[int, ...]
"""Expert of every slot."""


def round_robin(slots: int, num_experts: int) -> SlotMap:
    """Slot s holds expert s modulo their number: no rank holds one twice while it has at most as many slots. The
    default placement of every server and plan."""
    return tuple(slot % num_experts for slot in range(slots))


def most_moved(slots: int) -> int:
    """Slots of a layer that one rebalancing may change, by default: a quarter, and at least two for a swap."""
    return min(slots, max(2, slots // 4))


def staged_slots(experts: ExpertsLayout, moved: int | None = None) -> int:
    """Spare slots of a layer that a rank keeps to receive moved experts; `moved`: slots that may change in all."""
    if experts.balance.policy == "none":
        return 0
    return min(most_moved(experts.slots) if moved is None else moved, experts.slots // experts.ep)


@dataclass(frozen=True)
class ExpertSlots:
    """Slots of every layer. `maps`: per layer with experts, by layer number; a layer not named takes its experts round
    robin."""

    experts: ExpertsLayout
    num_experts: int
    maps: tuple[tuple[int, SlotMap], ...] = ()

    @cached_property
    def _by_layer(self) -> dict[int, SlotMap]:
        for layer, slots in self.maps:
            if len(slots) != self.experts.slots or set(slots) != set(range(self.num_experts)):
                raise LayoutError(
                    f"placement of layer {layer}: {len(slots)} slots for {len(set(slots))} experts; wanted "
                    f"{self.experts.slots} slots in which each of {self.num_experts} experts stands at least once",
                    field="experts.slots",
                    value=len(slots),
                )
        return dict(self.maps)

    def map(self, layer: int) -> SlotMap:
        """Expert of every slot of a layer."""
        return self._by_layer.get(layer) or round_robin(self.experts.slots, self.num_experts)

    @cached_property
    def runs(self) -> tuple[Interval, ...]:
        """The slots of each ep position."""
        return even_splits(self.experts.slots, self.experts.ep)

    def of_rank(self, stage_rank: int) -> Interval:
        """The slots of a rank of the stage."""
        return self.runs[stage_rank % (self.experts.tp * self.experts.ep) // self.experts.tp]
