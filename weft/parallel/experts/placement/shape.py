"""How many experts, slots, ranks, nodes and groups a placement has, and which of these fit together.

A slot is a place for one expert's weights on a rank; rank r owns slots r * n .. r * n + n - 1 with
n = slots / ranks. A group is a run of consecutive experts that the router treats as one; nodes own consecutive ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SlotShape:
    """Sizes of one layer's placement. Raises ConfigError, naming field, value and legal values, where they do not
    fit."""

    experts: int
    slots: int
    ranks: int
    nodes: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for field in ("experts", "slots", "ranks", "nodes", "groups"):
            if getattr(self, field) < 1:
                raise _error(field, getattr(self, field), "at least 1", ())
        if self.ranks % self.nodes:
            raise _not_divisible("nodes", self.nodes, self.ranks, f"{self.ranks} ranks")
        self._check_slots()
        if self.experts % self.groups:
            raise self._groups_error(f"does not divide {self.experts} experts")
        if self.groups > 1 and self.groups % self.nodes:
            raise self._groups_error(f"not divisible by {self.nodes} nodes")

    @property
    def slots_per_rank(self) -> int:
        """Slots on each rank."""
        return self.slots // self.ranks

    @property
    def hierarchical(self) -> bool:
        """True where there is more than one node and groups to keep whole inside nodes."""
        return self.nodes > 1 and self.groups > 1

    def _check_slots(self) -> None:
        first = -(-self.experts // self.ranks) * self.ranks
        last = self.experts * self.ranks
        legal = tuple(range(first, min(last, first + 4 * self.ranks) + 1, self.ranks))
        shown = f"{', '.join(map(str, legal))}{', ...' if legal[-1] < last else ''}"
        if self.slots < self.experts:
            reason = f"{self.experts} experts need a slot each"
        elif self.slots % self.ranks:
            reason = f"not divisible by {self.ranks} ranks"
        elif self.slots > last:
            reason = f"{self.ranks} ranks hold every one of {self.experts} experts with {last} slots"
        else:
            return
        raise _error("slots", self.slots, f"{reason}; legal with {self.ranks} ranks: {shown}", legal)

    def _groups_error(self, reason: str) -> ConfigError:
        several = (g for g in range(2, self.experts + 1) if self.experts % g == 0 and g % self.nodes == 0)
        legal = (1, *several)
        return _error("groups", self.groups, f"{reason}; legal: {', '.join(map(str, legal))}", legal)


def _not_divisible(field: str, value: int, whole: int, what: str) -> ConfigError:
    legal = tuple(d for d in range(1, whole + 1) if whole % d == 0)
    return _error(field, value, f"does not divide {what}; legal: {', '.join(map(str, legal))}", legal)


def _error(field: str, value: int, reason: str, legal: tuple[int, ...]) -> ConfigError:
    return ConfigError(f"{field} {value}: {reason}", field=field, value=value, legal=legal)
