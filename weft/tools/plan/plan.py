"""The plan: leaders of a search that fit into memory, best first, and why others are not among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from weft.base.errors import LayoutError
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.layout import Layout
from weft.tools.explain.fits import Budget, Fit, fit, tightest_rank
from weft.tools.explain.memory import memory_of_ranks
from weft.tools.plan.parts import ONCE, Explained, shape_of, size_of
from weft.tools.plan.search import Candidate, Space, Times, layout_of, phases_of, times_of

MARGIN = 0.15
"""Ratio of times within which two layouts are called alike, where no error of this kind of machine was saved."""
MOST_FITTED = 400
"""Layouts that are fitted exactly; those after them are slower by their times alone."""

MOST_MISSES = 20
"""Layouts whose missing bytes are counted where none fits."""

Room = Callable[[Layout, int], "RoomFound"]
"""Of a replica's layout, and how many there are."""


@dataclass(frozen=True, slots=True)
class RoomFound:
    """Of one replica: requests at once in all of its groups, and bytes that the tightest rank lacks (0: none)."""

    requests: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A layout of the plan. `modules`: bytes of each on the fullest rank; `requests`: that its caches have room for."""

    candidate: Candidate
    layout: Layout
    times: Times
    requests: int
    modules: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """`leaders`: best first. `near`: the layout with the fewest bytes missing, where none fits."""

    space: Space
    leaders: tuple[Ranked, ...]
    misses: tuple[tuple[Candidate, int], ...]


def room_by_explain(explained: Explained) -> Room:
    """By explain's bytes, in the part of a device's memory that is counted on."""
    goal, cluster = explained.goal, explained.cluster

    def room(layout: Layout, replicas: int) -> RoomFound:
        found = tightest_rank(explained.config, layout, goal.load, Budget(cluster.budget(layout.world * replicas)))
        per_group = found.kv_tokens // goal.held
        return RoomFound(per_group * layout.attention.dp, max(0, -found.left))

    return room


def make_plan(space: Space, room: Room, top: int) -> LayoutPlan:
    """Fits layouts in the order of their times; a layout without room for all streams takes longer, and waits for
    those that might still be faster."""
    explained = space.explained
    optimistic = sorted(((order(explained, each, times_of(explained, each)), each) for each in space.left),
                        key=lambda pair: pair[0])  # fmt: skip
    found: list[tuple[tuple[object, ...], Ranked]] = []
    misses: list[tuple[Candidate, int]] = []
    tried = 0
    for key, candidate in optimistic:
        if tried >= MOST_FITTED or (len(found) >= top and key > sorted(each[0] for each in found)[top - 1]):
            break
        if not may_hold(explained, candidate):
            space.unfit += 1
            continue
        tried += 1
        try:
            one = layout_of(explained, candidate, replicas=1)
            ranked = rank_layout(explained, candidate, one, room(one, candidate.replicas))
        except LayoutError:
            continue
        if isinstance(ranked, int):
            space.unfit += 1
            misses.append((candidate, ranked))
        else:
            found.append((order(explained, candidate, ranked.times), ranked))
    if not found and not misses:  # the weights alone are too many everywhere
        for _, candidate in sorted(optimistic, key=lambda pair: (-pair[1].world, pair[0]))[:MOST_MISSES]:
            one = layout_of(explained, candidate, replicas=1)
            misses.append((candidate, room(one, candidate.replicas).missing))
    found.sort(key=lambda pair: pair[0])
    return LayoutPlan(space, tuple(each for _, each in found[:top]), tuple(sorted(misses, key=lambda pair: pair[1])))


def rank_layout(explained: Explained, candidate: Candidate, one: Layout, room: RoomFound) -> Ranked | int:
    """The layout with its room and times; bytes that are missing where it has no room for a request. `one`: replica."""
    if not room.requests:
        return max(1, room.missing)
    requests = room.requests * candidate.replicas
    ranks = memory_of_ranks(Shards(explained.config, one, storage=explained.goal.load.storage),
                            explained.goal.load.itemsize)  # fmt: skip
    fullest = max(ranks, key=lambda rank: rank.total)
    layout = one if candidate.replicas == 1 else layout_of(explained, candidate)
    return Ranked(candidate, layout, times_of(explained, candidate, requests), requests, fullest.bytes)


def may_hold(explained: Explained, candidate: Candidate) -> bool:
    """Whether the weights of the layers leave any room on the rank of even stages that holds least."""
    sizes = (("attention", candidate.shape.tp), *candidate.sizes)
    parts = [explained.parts[candidate.shape, candidate.whole, *each] for each in sizes if each[0] not in ONCE]
    held = sum(min(part.held) for part in parts) // candidate.stages
    return held < explained.cluster.budget(candidate.world)


def order(explained: Explained, candidate: Candidate, times: Times) -> tuple[object, ...]:
    """Those that meet the goal first; then by the time of a request, devices, and sizes, so that it is one order."""
    goal = explained.goal
    missed = goal.tpot is not None and times.step > goal.tpot
    return missed, times.request, candidate.world, candidate.stages, str(candidate.shape), str(candidate.sizes)


def smallest_change(explained: Explained, candidate: Candidate) -> Fit:
    """Explain's fit of a layout that does not fit, with what would make room."""
    one = layout_of(explained, candidate, replicas=1)
    goal = explained.goal
    return fit(explained.config, one, goal.load, Budget(explained.cluster.budget(one.world)))


def idle_devices(explained: Explained, ranked: Ranked) -> int:
    """Devices that a layout does not use; cores of one machine are divided between however many ranks there are."""
    return 0 if explained.cluster.shared else explained.cluster.devices - ranked.candidate.world


def per_device(explained: Explained, ranked: Ranked) -> float:
    """Tokens of answers a second, of each device that is used."""
    goal, used = explained.goal, explained.cluster.devices - idle_devices(explained, ranked)
    return goal.streams * goal.answer / ranked.times.request / used


def alike(first: Ranked, other: Ranked, margin: float = MARGIN) -> bool:
    """Whether the times of two layouts are too near for an order."""
    return other.times.request <= first.times.request * (1 + margin)


def stated_layout(explained: Explained, layout: Layout, room: Room) -> Ranked | int:
    """A given layout, counted as the others are; bytes that are missing where it does not fit."""
    shape, sizes = shape_of(layout), tuple((module, size_of(layout, module)) for module in explained.modules)
    stages, replicas = layout.pipeline.stages, layout.replicas
    phases = phases_of(explained.goal, shape, stages, replicas)
    one = explained.layout(shape, dict(sizes))
    own = Explained(explained.config, explained.cluster, explained.goal, explained.greedy)
    own.look(one, phases)
    whole = next(iter(own.parts))[1]
    if stages > 1:
        own.look_at_hops(explained.layout(shape, dict(sizes), **{"pipeline.stages": stages}), phases)
    candidate = Candidate(shape, stages, replicas, sizes, whole)
    of_replica = layout_of(own, candidate, replicas=1)
    return rank_layout(own, candidate, of_replica, room(of_replica, replicas))
