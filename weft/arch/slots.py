"""Expert slots: which routed expert each physical slot of an expert block holds. Numbers only; knows no load.

A block of experts has tp * ep ranks, tp fastest; its slots are dealt to the ep positions in contiguous runs. A slot
holds one expert (or its tp-th part on each of tp ranks); an expert may have several slots (replicas), never none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from weft.errors import LayoutError
from weft.layout.cuts import even_cuts
from weft.layout.layout import Experts
from weft.layout.placement import Interval

SlotMap = tuple[int, ...]
"""Expert of every slot."""


def dealt(slots: int, num_experts: int) -> SlotMap:
    """Slot s holds expert s modulo their number: no rank holds one twice while it has at most as many slots. What
    every server and every plan begins with where nothing else is said."""
    return tuple(slot % num_experts for slot in range(slots))


def most_moved(slots: int) -> int:
    """Slots of a layer that one rebalancing may change, where nothing else is said: a quarter, and enough to swap."""
    return min(slots, max(2, slots // 4))


def staged_slots(experts: Experts, moved: int | None = None) -> int:
    """Slots of a layer that a rank has room for beside its own, to receive what moves; `moved` may change in all."""
    if experts.balance.policy == "none":
        return 0
    return min(most_moved(experts.slots) if moved is None else moved, experts.slots // experts.ep)


@dataclass(frozen=True)
class ExpertSlots:
    """Slots of every layer. `maps`: per layer with experts, by layer number; a layer not named is dealt round robin."""

    experts: Experts
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
        return self._by_layer.get(layer) or dealt(self.experts.slots, self.num_experts)

    @cached_property
    def runs(self) -> tuple[Interval, ...]:
        """The slots of each ep position."""
        return even_cuts(self.experts.slots, self.experts.ep)

    def of_rank(self, stage_rank: int) -> Interval:
        """The slots of a rank of the stage."""
        return self.runs[stage_rank % (self.experts.tp * self.experts.ep) // self.experts.tp]
