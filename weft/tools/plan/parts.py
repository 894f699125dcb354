"""Parts: what one module of one size costs under an attention shape, counted by explain. No rate is known here.

A module's part does not depend on the other modules' sizes, but for where the residual stream lies (its form).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from weft.base.errors import LayoutError
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit, resolve_for
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.tools.explain.hops import hop_traffic
from weft.tools.explain.largest import AT_SAMPLING, largest_bytes
from weft.tools.explain.memory import RankMemoryUse, memory_of_ranks, modules_of
from weft.tools.explain.traffic import CollectiveCall, times_of_stages, traffic_of
from weft.tools.explain.work.work import CountedStep, RankProducts, work_of
from weft.tools.plan.clusters import Cluster
from weft.tools.plan.goal import Goal
from weft.tools.plan.times import Term, total

FREE = ("o_proj", "dense", "experts", "shared_experts", "embedding", "lm_head")
"""Modules that have a size of their own inside a stage."""
ONCE = ("embedding", "lm_head")
"""Those that have no say in where the residual stream lies."""
MODULE_OF = {"head": "lm_head", "sampling": "lm_head", "router": "experts"}
Size = int | tuple[int, int]
"""Of experts: (tp, ep)."""
Phase = tuple[str, int]
"""("decode", rows of a dp group), or ("prompt", rows of its chunk)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One module: its terms at each phase, and its bytes on every rank of a stage that has all layers."""

    module: str
    size: Size
    terms: Mapping[Phase, tuple[Term, ...]]
    held: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Attention's sizes inside a stage."""

    tp: int
    dp: int
    cp: int = 1
    kv_split: int = 1

    @property
    def ranks(self) -> int:
        """Of a stage."""
        return self.tp * self.dp * self.cp

    def given(self) -> dict[str, object]:
        """As a layout's values."""
        return {f"attention.{name}": getattr(self, name) for name in ("tp", "dp", "cp", "kv_split")}


@dataclass(slots=True)
class Explained:
    """Asks explain for parts, each layout once. `calls`: how many layouts it was asked about."""

    config: ModelConfig
    cluster: Cluster
    goal: Goal
    greedy: bool = False
    calls: int = 0
    parts: dict[tuple[Shape, bool, str, Size], Part] = field(default_factory=dict)
    hops: dict[tuple[Shape, bool], Mapping[Phase, tuple[Term, ...]]] = field(default_factory=dict)
    gathers: set[tuple[Shape, Size]] = field(default_factory=set)
    """Sizes of experts whose rows arrive by an all_gather."""
    seconds: dict[tuple[int, Phase, float], float] = field(default_factory=dict)
    """Of the terms of a part (by `id`, for parts stay) at a phase, with a scale."""
    counts: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)
    """How often each of so many stages passes a module."""
    kv: dict[Shape, tuple[int, ...]] = field(default_factory=dict)
    """Bytes of a token that every rank of a stage keeps of all layers."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of FREE that the model has."""
        found = modules_of(self.config)
        return tuple(module for module in FREE if module in found)

    def passes(self, stages: int, module: str) -> tuple[int, ...]:
        """See `passes`, once for each."""
        key = stages, module
        if key not in self.counts:
            self.counts[key] = passes(self.config, stages, module)
        return self.counts[key]

    def seconds_of(self, part: Part, phase: Phase, scale: float) -> float:
        """Of one pass of a part on its fullest rank."""
        key = id(part), phase, scale
        if key not in self.seconds:
            self.seconds[key] = total(part.terms[phase], self.cluster.rates, scale)
        return self.seconds[key]

    def layout(self, shape: Shape, sizes: Mapping[str, Size], **more: object) -> Layout:
        """LayoutError: the model does not allow it."""
        layout = resolve_for(self.config, {**shape.given(), **given_sizes(sizes), **more})
        check_fit(layout, self.config)
        return layout

    def look(self, layout: Layout, phases: tuple[Phase, ...]) -> None:
        """Counts all parts of a layout of one stage."""
        shape = shape_of(layout)
        shards = Shards(self.config, layout, storage=self.goal.load.storage)
        self.calls += 1
        whole = is_whole(shards)
        terms = {phase: self._terms(shards, phase) for phase in phases}
        ranks = memory_of_ranks(shards, self.goal.load.itemsize)
        self.kv.setdefault(shape, tuple(rank.kv_bytes_per_token for rank in ranks))
        if shards.forward_plan.dispatch and shards.forward_plan.dispatch.form == "all_gather":
            self.gathers.add((shape, size_of(layout, "experts")))
        for module in ("attention", *self.modules):
            size = size_of(layout, module)
            if (shape, whole, module, size) not in self.parts:
                of_module = {phase: tuple(found.get(module, ())) for phase, found in terms.items()}
                self.parts[shape, whole, module, size] = Part(module, size, of_module, _held(ranks, module))

    def look_at_hops(self, layout: Layout, phases: tuple[Phase, ...]) -> None:
        """Counts what goes from one stage to the next."""
        shards = Shards(self.config, layout, storage=self.goal.load.storage)
        self.calls += 1
        whole, size = is_whole(shards), layout.stage_size
        found: dict[Phase, tuple[Term, ...]] = {}
        for phase in phases:
            hop, *_ = hop_traffic(shards, self.goal.load.itemsize, (phase[1],))
            crosses = self.cluster.crosses((0, size))
            sent = Term("stage.in", hop.received[0].most, 0.0, 2, crosses)
            found[phase] = (sent, *(self._call("stage.in", call) for call in hop.gathers if call.groups))
        self.hops[shape_of(layout), whole] = found

    def _terms(self, shards: Shards, phase: Phase) -> dict[str, list[Term]]:
        kind, rows = phase
        decode = kind == "decode"
        step = CountedStep(rows, self.goal.context) if decode else CountedStep(rows, rows, self.goal.prompt - rows)
        found = _work_terms(work_of(shards, self.goal.load.itemsize, step))
        batches = (rows,) if decode else (rows, 1)
        greedy = largest_bytes(shards.layout, batches[-1:]) if self.greedy else ()
        for passed in traffic_of(shards, self.goal.load.itemsize, batches):
            if greedy and passed.name in AT_SAMPLING:
                continue
            name = passed.name.partition(".")[0]
            sampled = name in ("head", "lm_head", "sampling")
            for call in passed.calls:
                if call.groups:
                    term = self._call(passed.name, call, -1 if sampled else 0)
                    found.setdefault(MODULE_OF.get(name, name), []).append(term)
        if greedy:
            tp = shards.layout.attention.tp
            crosses = self.cluster.crosses(tuple(range(tp)))
            found["lm_head"].append(Term("sampling.largest", greedy[0], 0.0, tp, crosses))
        return found

    def _call(self, name: str, call: CollectiveCall, batch: int = 0) -> Term:
        crosses = any(map(self.cluster.crosses, call.groups))
        # an all_reduce is a reduce_scatter and an all_gather: two messages wait for the slowest rank
        again = "+" if call.kind == "all_reduce" else ""
        return Term(f"{name} {call.kind}{again}", call.received[batch].most, 0.0, call.group_size, crosses)


def shape_of(layout: Layout) -> Shape:
    """Of a layout."""
    return Shape(layout.attention.tp, layout.attention.dp, layout.attention.cp, layout.attention.kv_split)


def size_of(layout: Layout, module: str) -> Size:
    """Of one module."""
    if module == "experts":
        return (layout.experts.tp, layout.experts.ep) if layout.experts else (1, 1)
    found = getattr(layout, module).tp
    assert isinstance(found, int)
    return found


def given_sizes(sizes: Mapping[str, Size]) -> dict[str, object]:
    """As a layout's values."""
    found: dict[str, object] = {}
    for module, size in sizes.items():
        if isinstance(size, tuple):
            found |= {"experts.tp": size[0], "experts.ep": size[1]}
        else:
            found[f"{module}.tp"] = size
    return found


def is_whole(shards: Shards) -> bool:
    """Whether every rank of an attention block has all rows of the residual stream."""
    return shards.forward_plan.residual.size > 1


def passes(config: ModelConfig, stages: int, module: str) -> tuple[int, ...]:
    """How often a step passes a module in every one of even stages."""
    layout = resolve({"pipeline.stages": stages}, num_experts=config.num_experts)
    name = "embedding.in" if module == "embedding" else "sampling.out" if module == "lm_head" else f"{module}.in"
    return times_of_stages(layout, config, name)


def options(config: ModelConfig, shape: Shape, module: str, most: int | None = None) -> Iterator[Size]:
    """The sizes of a module; `most`: ranks that it may have."""
    for size in divisors(shape.ranks):
        if most is not None and size > max(most, shape.tp):
            continue
        if module != "experts":
            yield size
        else:
            yield from ((tp, size // tp) for tp in divisors(size) if size // tp <= config.num_experts)


def cover(explained: Explained, shape: Shape, sizes: Mapping[str, tuple[Size, ...]], phases: tuple[Phase, ...],
          stages: bool) -> None:  # fmt: skip
    """Looks at layouts of a shape until every size of every module is counted in both forms. `stages`: hops, too."""
    tp = shape.tp
    same: dict[str, Size] = {module: (1, tp) if module == "experts" else tp for module in sizes}
    wanted: list[dict[str, Size]] = []
    if tp > 1:  # else there is one form
        free = {name: sizes[name] for name in ONCE}
        free["experts"] = tuple(size for size in sizes.get("experts", ()) if ranks_of(size) == tp)
        free = {name: every for name, every in free.items() if every}
        most = max(map(len, free.values()))
        wanted += [{**same, **{name: every[at % len(every)] for name, every in free.items()}} for at in range(most)]
    count = max(map(len, sizes.values()))
    wanted += [{module: own[at % len(own)] for module, own in sizes.items()} for at in range(count)]
    seen: set[tuple[tuple[str, Size], ...]] = set()

    def look(chosen: Mapping[str, Size]) -> None:
        key = tuple(sorted(chosen.items()))
        if key not in seen:
            seen.add(key)
            try:
                explained.look(explained.layout(shape, chosen), phases)
            except LayoutError:
                return

    for chosen in wanted:
        look(chosen)
    for module, own in sizes.items():
        for size in own:
            if (shape, False, module, size) not in explained.parts:
                others = {name: next((each for each in every if ranks_of(each) != tp), every[0])
                          for name, every in sizes.items()}  # fmt: skip
                look({**others, module: size})
    if stages:
        apart: dict[str, Size] = {name: every[0 if ranks_of(every[0]) != tp else -1] for name, every in sizes.items()}
        for chosen in (same, apart)[tp == 1 :]:
            explained.look_at_hops(explained.layout(shape, chosen, **{"pipeline.stages": 2}), phases)


def ranks_of(size: Size) -> int:
    """That share the module."""
    return size[0] * size[1] if isinstance(size, tuple) else size


def _work_terms(works: tuple[RankProducts, ...]) -> dict[str, list[Term]]:
    """The fullest rank of each product; of a product that the last layer has with fewer rows, the others'."""
    fullest: dict[tuple[str, str], Term] = {}
    for work in works:
        layers = sum(reads.times for reads in work.attention)
        keys = [sum(getattr(reads, name) * reads.times for reads in work.attention) / max(1, layers)
                for name in ("nbytes", "multiplications")]  # fmt: skip
        for product in work.products:
            place = MODULE_OF.get(product.module, product.module), product.name
            _widen(fullest, place, product.nbytes, product.multiplications)
        _widen(fullest, ("attention", "keys"), *keys)
    found: dict[str, list[Term]] = {}
    for (module, _), term in fullest.items():
        found.setdefault(module, []).append(term)
    return found


def _widen(fullest: dict[tuple[str, str], Term], place: tuple[str, str], nbytes: float, products: float) -> None:
    old = fullest.get(place, Term(place[1], 0.0))
    fullest[place] = replace(old, nbytes=max(old.nbytes, nbytes), multiplications=max(old.multiplications, products))


def _held(ranks: tuple[RankMemoryUse, ...], module: str) -> tuple[int, ...]:
    beside = {"experts": ("router",), "attention": ("norm",)}.get(module, ())
    return tuple(sum(rank.bytes.get(name, 0) for name in (module, *beside)) for rank in ranks)
