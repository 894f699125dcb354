"""Search: every layout that a cluster allows up to 8 ranks, module by module above, put together from parts.

Sizes that cost more than another one in nothing less are removed first (dominance): no rate is needed for that. Times
only order the rest. Leaders are then fitted into memory by the launch plan or explain, in the order of their times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from weft.base.errors import LayoutError
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.tools.plan.clusters import Cluster
from weft.tools.plan.dominance import Dominated, dominated
from weft.tools.plan.goal import Goal
from weft.tools.plan.parts import Explained, Part, Phase, Shape, Size, cover, given_sizes, options, ranks_of
from weft.tools.plan.rules import SearchRules
from weft.tools.plan.times import total


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout: `stages` of `shape` with a size for each module, `replicas` times. `whole`: see `is_whole`."""

    shape: Shape
    stages: int
    replicas: int
    sizes: tuple[tuple[str, Size], ...]
    whole: bool

    @property
    def world(self) -> int:
        """All ranks."""
        return self.shape.ranks * self.stages * self.replicas

    def given(self) -> dict[str, object]:
        """As a layout's values."""
        return {**self.shape.given(), **given_sizes(dict(self.sizes)), "pipeline.stages": self.stages,
                "replicas": self.replicas}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a decode step's token (`step`), of a prompt's all chunks, and of a request among its streams.
    `modules`: of one decode step."""

    step: float
    prompt: float
    request: float
    modules: Mapping[str, float]
    running: int


@dataclass(slots=True)
class Space:
    """What was looked at, and what became of it."""

    explained: Explained
    looked: int = 0
    unfit: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    """Layouts, by the rule or the module whose other size removed them."""
    why: dict[Candidate, Dominated] = field(default_factory=dict)
    left: list[Candidate] = field(default_factory=list)


def search(config: ModelConfig, cluster: Cluster, goal: Goal, rules: SearchRules, greedy: bool = False) -> Space:
    """All layouts that stay."""
    space = Space(Explained(config, cluster, goal, greedy))
    for shape, worlds in _shapes(config, cluster, rules, space):
        sizes = {module: _options(config, shape, module, rules) for module in space.explained.modules}
        if not all(sizes.values()):
            continue
        phases = tuple(sorted({phase for world in worlds for phase in phases_of(goal, shape, *world)}))
        try:
            cover(space.explained, shape, sizes, phases, any(stages > 1 for stages, _ in worlds))
        except LayoutError:
            continue
        for whole in (False, True):
            every = tuple(_combinations(space.explained, shape, sizes, whole)) if rules.exhaustive else ()
            for stages, replicas in worlds:
                if not rules.exhaustive:
                    own = _alone(space, shape, sizes, whole, stages, replicas)
                    every = tuple(_combinations(space.explained, shape, own, whole))
                _settle(space, shape, stages, replicas, whole, every)
    return space


def phases_of(goal: Goal, shape: Shape, stages: int, replicas: int) -> tuple[Phase, Phase]:
    """A decode step of the fullest attention-dp group, and a prompt's chunk."""
    of_group = -(-goal.streams // (replicas * shape.dp))
    return ("decode", -(-of_group // stages)), ("prompt", goal.chunk)


def _options(config: ModelConfig, shape: Shape, module: str, rules: SearchRules) -> tuple[Size, ...]:
    most = None if rules.exhaustive else rules.most_tp
    every = tuple(options(config, shape, module, most))
    return tuple(size for size in every if rules.allows(module, size))


def _shapes(
    config: ModelConfig, cluster: Cluster, rules: SearchRules, space: Space
) -> Iterator[tuple[Shape, list[tuple[int, int]]]]:
    """Attention's sizes, each with the numbers of stages and replicas that it may have."""
    for ranks in rules.stage_sizes(cluster):
        for tp in divisors(ranks):
            for cp in divisors(ranks // tp):
                for kv_split in divisors(tp):
                    shape = Shape(tp, ranks // (tp * cp), cp, kv_split)
                    if tp > config.num_heads or (rule := rules.why_not(shape)) == "pinned":
                        continue
                    worlds = list(rules.worlds(cluster, ranks, config.num_layers))
                    if rule:
                        space.removed[rule] += len(worlds)
                    elif worlds:
                        yield shape, worlds


def _alone(
    space: Space, shape: Shape, sizes: Mapping[str, tuple[Size, ...]], whole: bool, stages: int, replicas: int
) -> dict[str, tuple[Size, ...]]:
    """Of each module the size that takes least time and the one that holds least, each judged alone."""
    explained, goal = space.explained, space.explained.goal
    decode, prompt = phases_of(goal, shape, stages, replicas)
    scale = explained.cluster.scale(shape.ranks * stages * replicas)
    found: dict[str, tuple[Size, ...]] = {}
    for module, every in sizes.items():
        parts = [part for size in every if (part := explained.parts.get((shape, whole, module, size))) is not None]

        def seconds(part: Part) -> float:
            step, whole_prompt = (explained.seconds_of(part, phase, scale) for phase in (decode, prompt))
            return goal.answer * step + goal.chunks * decode[1] * stages * whole_prompt

        least = [min(parts, key=seconds), min(parts, key=lambda part: max(part.held))] if parts else []
        found[module] = tuple(dict.fromkeys(part.size for part in least))
        space.removed["slower, or larger, than another size of the module alone"] += len(parts) - len(found[module])
    return found


def is_ample(explained: Explained, shape: Shape, stages: int, replicas: int, whole: bool) -> bool:
    """Whether memory holds all streams with the size of every module that takes most."""
    goal, most = explained.goal, 0
    if shape not in explained.kv:
        return False
    for module in ("attention", *explained.modules):
        held = [max(part.held) for key, part in explained.parts.items() if key[:3] == (shape, whole, module)]
        most += max(held, default=0)
    in_group = -(-goal.streams // (replicas * shape.dp))
    return (
        most + in_group * goal.held * max(explained.kv[shape])
        <= explained.cluster.budget(shape.ranks * stages * replicas) // 2
    )


def _combinations(
    explained: Explained, shape: Shape, sizes: Mapping[str, tuple[Size, ...]], whole: bool
) -> Iterator[tuple[tuple[str, Size], ...]]:
    """Sizes with which the residual stream lies in that form."""
    names = tuple(sizes)
    for chosen in product(*sizes.values()):
        combination = tuple(zip(names, chosen, strict=True))
        if in_form(explained, shape, combination) == whole:
            if all((shape, whole, *each) in explained.parts for each in combination):
                yield combination


def in_form(explained: Explained, shape: Shape, sizes: tuple[tuple[str, Size], ...]) -> bool:
    """Whether such sizes keep the residual stream whole in an attention block."""
    inside = [(module, size) for module, size in sizes if module not in ("embedding", "lm_head")]
    gathered = all(module != "experts" or (shape, size) in explained.gathers for module, size in inside)
    return shape.tp > 1 and gathered and all(ranks_of(size) == shape.tp for _, size in inside)


def _settle(
    space: Space, shape: Shape, stages: int, replicas: int, whole: bool, every: tuple[tuple[tuple[str, Size], ...], ...]
) -> None:
    """Counts candidates, and removes those that another one dominates."""
    explained = space.explained
    phases = phases_of(explained.goal, shape, stages, replicas)
    names = {*every}
    ample = is_ample(explained, shape, stages, replicas, whole)
    better: dict[tuple[str, Size], list[Dominated]] = {}
    for module in explained.modules:
        parts = [part for key, part in explained.parts.items() if key[:3] == (shape, whole, module)]
        for part in parts:
            better[module, part.size] = [found for other in parts if (found := dominated(part, other, phases, ample))]
    for sizes in every:
        space.looked += 1
        candidate = Candidate(shape, stages, replicas, sizes, whole)
        found = next((each for pair in sizes for each in better[pair] if _with(sizes, pair[0], each.by) in names), None)
        if found is None:
            space.left.append(candidate)
        else:
            space.removed[f"{found.module} of another size is better in everything"] += 1
            space.why[candidate] = found


def _with(sizes: tuple[tuple[str, Size], ...], module: str, size: Size) -> tuple[tuple[str, Size], ...]:
    return tuple((name, size if name == module else own) for name, own in sizes)


def parts_of(explained: Explained, candidate: Candidate) -> tuple[Part, ...]:
    """Of all modules, attention first."""
    shape, whole = candidate.shape, candidate.whole
    attention = explained.parts[shape, whole, "attention", shape.tp]
    return (attention, *(explained.parts[shape, whole, module, size] for module, size in candidate.sizes))


def layout_of(explained: Explained, candidate: Candidate, **more: object) -> Layout:
    """LayoutError: the model does not allow it."""
    return explained.layout(
        candidate.shape, dict(candidate.sizes),
        **{"pipeline.stages": candidate.stages, "replicas": candidate.replicas, **more},
    )  # fmt: skip


def times_of(explained: Explained, candidate: Candidate, room: int | None = None) -> Times:
    """Of a candidate whose caches have room for so many requests at once (None: for all streams).

    A token comes when the slowest stage has run a step for each of the stages. A request waits for the prompts of all
    requests of its group, and where they have no room at once, for those before it."""
    goal, cluster = explained.goal, explained.cluster
    decode, prompt = phases_of(goal, candidate.shape, candidate.stages, candidate.replicas)
    scale, rates = cluster.scale(candidate.world), cluster.rates
    seconds: dict[str, dict[str, list[float]]] = {"decode": {}, "prompt": {}}
    for part in parts_of(explained, candidate):
        times = explained.passes(candidate.stages, part.module)
        for kind, phase in (("decode", decode), ("prompt", prompt)):
            each = explained.seconds_of(part, phase, scale)
            seconds[kind][part.module] = [each * count for count in times]
    stages = {kind: [sum(column) + rates.step_floor for column in zip(*found.values(), strict=True)]
              for kind, found in seconds.items()}  # fmt: skip
    hops = {}
    for kind, phase in (("decode", decode), ("prompt", prompt)):
        hop = explained.hops[candidate.shape, candidate.whole][phase] if candidate.stages > 1 else ()
        hops[kind] = total(hop, rates, scale)
    step = max(stages["decode"]) * candidate.stages + hops["decode"] * candidate.stages
    whole = sum(stages["prompt"]) + hops["prompt"] * (candidate.stages - 1)
    paced = (goal.chunks - 1) * max(stages["prompt"])
    running = goal.streams if room is None else min(goal.streams, room)
    in_group = -(-goal.streams // (candidate.replicas * candidate.shape.dp))
    queued = (whole + paced) + (in_group - 1) * goal.chunks * max(stages["prompt"])
    request = (queued + (goal.answer - 1) * step) * (goal.streams / max(1, running))
    modules = {name: sum(found) for name, found in seconds["decode"].items()}
    if candidate.stages > 1:
        modules["stages"] = hops["decode"] * candidate.stages + step - sum(stages["decode"])
    return Times(step, whole + paced, request, modules, running)
