"""ExpertPlacement: which expert is in which slot, in every layer; replicas, and the transfers between two placements.

weft/parallel/experts/files/ reads and writes placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from weft.base.errors import ConfigError
from weft.parallel.arch.slots import round_robin
from weft.parallel.experts.placement.routing import RoutingTable
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import IntArray


@dataclass(frozen=True, slots=True)
class Transfer:
    """The weights of `expert` that slot `slot` of `layer` receives; slot `source` holds them before the change."""

    layer: int
    slot: int
    expert: int
    source: int


@dataclass(frozen=True, eq=False, slots=True)
class ExpertPlacement:
    """phy2log int64 [layers, slots]: the expert in each slot. Slot s of rank r is index r * slots / ranks + s.

    Every slot is full and every expert of every layer has one slot or more. Raises ConfigError otherwise.
    """

    phy2log: IntArray
    experts: int
    ranks: int

    def __post_init__(self) -> None:
        table = np.array(self.phy2log, dtype=np.int64)
        if table.ndim != 2 or 0 in table.shape:
            raise _error(f"shape {list(table.shape)}; wanted [layers][slots], none of them empty")
        SlotShape(self.experts, table.shape[1], self.ranks)
        _check_experts(table, self.experts)
        table.flags.writeable = False
        object.__setattr__(self, "phy2log", table)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.phy2log.shape[0])

    @property
    def slots(self) -> int:
        """Slots of a layer, over all ranks."""
        return int(self.phy2log.shape[1])

    @property
    def slots_per_rank(self) -> int:
        """Slots of a layer on one rank."""
        return self.slots // self.ranks

    def by_rank(self) -> IntArray:
        """The experts as [layers, ranks, slots per rank]."""
        return self.phy2log.reshape(self.layers, self.ranks, self.slots_per_rank)

    def counts(self) -> IntArray:
        """Replicas of each expert, [layers, experts], all at least 1."""
        return replica_counts(self.phy2log, self.experts)

    def routing(self, layer: int) -> RoutingTable:
        """The routing table of one layer, from an expert to its slots."""
        return RoutingTable.build(self.phy2log[layer], self.experts)

    def duplicates(self) -> int:
        """Replicas that share a rank with another replica of their expert; over all layers."""
        rows = np.sort(self.by_rank(), axis=2)
        return int((rows[:, :, 1:] == rows[:, :, :-1]).sum())

    def moved(self, old: ExpertPlacement) -> IntArray:
        """Slots of each layer, [layers], whose rank has to receive an expert that it did not hold in that slot."""
        self.check_same_sizes(old)
        return cast(IntArray, (self.phy2log != old.phy2log).sum(axis=1))

    def aligned(self, old: ExpertPlacement) -> ExpertPlacement:
        """The same placement with experts that stay on their rank kept in their old slots, so that no weights
        move without need."""
        self.check_same_sizes(old)
        rows = zip(
            self.by_rank().reshape(-1, self.slots_per_rank), old.by_rank().reshape(-1, self.slots_per_rank), strict=True
        )
        table = np.stack([_keep_slots(new, before) for new, before in rows])
        return ExpertPlacement(table.reshape(self.phy2log.shape), self.experts, self.ranks)

    def transfers(self, old: ExpertPlacement) -> list[Transfer]:
        """What has to be copied to get here from `old`, in order of layer and slot. Sources are slots of `old`: one on
        the same rank where there is one, otherwise the expert's replicas in turn, so that no rank sends everything."""
        self.check_same_sizes(old)
        found: list[Transfer] = []
        for layer in np.flatnonzero((self.phy2log != old.phy2log).any(axis=1)):
            found += self._layer_transfers(old, int(layer))
        return found

    def check_same_sizes(self, other: ExpertPlacement) -> None:
        """Raises ConfigError unless both have the same layers, experts, slots and ranks."""
        mine = (self.layers, self.experts, self.slots, self.ranks)
        theirs = (other.layers, other.experts, other.slots, other.ranks)
        for field, wanted, got in zip(("layers", "experts", "slots", "ranks"), mine, theirs, strict=True):
            if wanted != got:
                message = f"{field} {got}; the other placement has {wanted}"
                raise _error(message, field=field, value=got, legal=(wanted,))

    def _layer_transfers(self, old: ExpertPlacement, layer: int) -> list[Transfer]:
        routing = old.routing(layer)
        turn = [0] * self.experts
        found = []
        for slot in np.flatnonzero(self.phy2log[layer] != old.phy2log[layer]):
            expert = int(self.phy2log[layer, slot])
            sources = routing.replicas(expert)
            near = [s for s in sources if s // self.slots_per_rank == slot // self.slots_per_rank]
            source = near[0] if near else sources[turn[expert] % len(sources)]
            turn[expert] += 1
            found.append(Transfer(layer, int(slot), expert, source))
        return found


def replica_counts(phy2log: IntArray, experts: int) -> IntArray:
    """Replicas of each expert, [layers, experts], of phy2log [layers, slots]."""
    layers = len(phy2log)
    flat = phy2log + np.arange(layers)[:, None] * experts
    return np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts).astype(np.int64)


def even_placement(layers: int, shape: SlotShape) -> ExpertPlacement:
    """Experts in order, from the first again where slots are left: what a server holds before any load was recorded."""
    row = np.array(round_robin(shape.slots, shape.experts))
    return ExpertPlacement(np.tile(row, (layers, 1)), shape.experts, shape.ranks)


def _check_experts(table: IntArray, experts: int) -> None:
    if table.min() < 0 or table.max() >= experts:
        layer, slot = (int(i) for i in np.argwhere((table < 0) | (table >= experts))[0])
        value = int(table[layer, slot])
        raise _error(f"expert {value} in slot {slot} of layer {layer}; legal: 0 to {experts - 1}", value=value)
    missing = np.argwhere(replica_counts(table, experts) == 0)
    if len(missing):
        layer, expert = (int(i) for i in missing[0])
        raise _error(f"expert {expert} has no slot in layer {layer}; every expert needs one", value=expert)


def _keep_slots(new: IntArray, old: IntArray) -> IntArray:
    """One rank's experts, reordered: those that were here stay in their slots, the others fill the gaps in order."""
    left = new.tolist()
    row = [-1] * len(left)
    for slot, expert in enumerate(old.tolist()):
        if expert in left:
            left.remove(expert)
            row[slot] = expert
    incoming = iter(left)
    return np.array([expert if expert >= 0 else next(incoming) for expert in row], dtype=np.int64)


def _error(message: str, field: str = "placement", value: object = None, legal: Sequence[object] = ()) -> ConfigError:
    return ConfigError(f"placement: {message}", field=field, value=value, legal=legal)
