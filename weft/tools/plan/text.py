"""A plan as lines of text: what the times rest on, the layouts best first, and why the others are not among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weft.base.plural import counted
from weft.parallel.layout.serialize import to_yaml
from weft.tools.explain.units import binary
from weft.tools.plan.plan import MARGIN, LayoutPlan, Ranked, alike, idle_devices, per_device
from weft.tools.plan.reasons import SHOWN
from weft.tools.plan.rules import SearchRules


def lines(name: str, found: LayoutPlan, rules: SearchRules, why: Sequence[str], stated: Ranked | None) -> Iterator[str]:
    """The whole plan; there is at least one layout."""
    space, cluster, goal = found.space, found.space.explained.cluster, found.space.explained.goal
    yield f"times: {cluster.rates.source}"
    yield (
        f"{name} on {cluster.name} ({counted(cluster.devices, 'device')}, {binary(cluster.memory)} each),"
        f" {counted(goal.streams, 'stream')} of {goal.prompt:,} + {goal.answer:,} tokens"
    )
    yield f"{space.looked:,} layouts looked at, {space.unfit:,} of the fastest do not fit"
    yield from (
        f"  removed {count:,}: {rule}" for rule, count in sorted(space.removed.items(), key=lambda one: -one[1])
    )
    yield from (f"  {rule}" for rule in rules.words())
    for place, ranked in enumerate(found.leaders, 1):
        yield ""
        yield from _layout(f"{place}.", found, ranked)
    first, *rest = found.leaders
    near = [str(place) for place, ranked in enumerate(rest, 2) if alike(first, ranked)]
    if near:
        yield ""
        yield f"1 and {', '.join(near)} are alike: within {MARGIN:.0%}, the error that is assumed"
        yield "  weft plan ... --write FILE, and weft bench --compare FILE FILE decides"
    if stated is not None:
        yield ""
        yield from _layout("what was given:", found, stated)
        yield f"  {stated.times.request / first.times.request:.2f} times the time of a request of the first"
    if why:
        yield ""
        yield "why not another:"
        yield from (f"  {line}" for line in why[:SHOWN])
        if len(why) > SHOWN:
            yield f"  and {len(why) - SHOWN} more; --json has all"


def _layout(title: str, found: LayoutPlan, ranked: Ranked) -> Iterator[str]:
    explained, times, world = found.space.explained, ranked.times, ranked.candidate.world
    goal, idle = explained.goal, idle_devices(explained, ranked)
    yield f"{title} {counted(world, 'rank')}" + (f", {counted(idle, 'device')} left idle" if idle > 0 else "")
    for line in to_yaml(ranked.layout).splitlines():
        if not line.startswith(("world:", "nodes:")) and not line.partition("#")[0].strip().endswith(": null"):
            yield f"  {line}"
    held = ", ".join(f"{module} {binary(nbytes)}" for module, nbytes in ranked.modules.items() if nbytes)
    yield f"  fullest rank: {binary(sum(ranked.modules.values()))} ({held})"
    yield f"  room for {ranked.requests:,} requests at once"
    missed = "" if goal.tpot is None or times.step <= goal.tpot else f", {times.step / goal.tpot:.2f} times the goal"
    yield (
        f"  a token every {times.step * 1e3:.2f} ms{missed}, a prompt {times.prompt * 1e3:.1f} ms;"
        f" {1 / times.step:.1f} tokens/s a stream,"
        f" {per_device(explained, ranked):.1f} a device"
    )
    whole = sum(times.modules.values()) or 1.0
    shares = sorted(times.modules.items(), key=lambda one: -one[1])
    yield f"  of a step: {', '.join(f'{module} {seconds / whole:.0%}' for module, seconds in shares if seconds > 0)}"
