"""What to change, by how much, where a layout does not fit into a rank's memory. Every proposal is computed anew.

A proposal is a whole layout, or smaller limits of a step; `Judge` says what the tightest rank then has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from weft.base.errors import LayoutError
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout, layout_settings
from weft.parallel.layout.resolve import resolve
from weft.tools.explain.units import binary

GROWABLE = ("o_proj", "dense", "embedding", "lm_head", "shared_experts")
"""Modules whose size may grow without changing others, inside a stage."""


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step may carry: rows and sampled rows of one attention-dp group; bytes of an element, and what is
    quantized."""

    rows: int
    sampled: int
    itemsize: int
    storage: WeightStorage = WeightStorage()


Judge = Callable[[Layout, StepLoad], int]
"""Bytes that the tightest rank has left for the KV cache; negative where bytes are missing. May raise LayoutError."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change with what the tightest rank has left under it."""

    text: str
    left: int
    given: Mapping[str, object]
    """Sizes that it changes; empty for a change of the step's limits."""

    def line(self, before: int) -> str:
        """For people: what it saves, and whether that is enough."""
        found = f"{self.text}: saves {binary(self.left - before)}"
        return f"{found}, enough" if self.left > 0 else f"{found}, {binary(-self.left)} still missing"


def proposals(config: ModelConfig, layout: Layout, load: StepLoad, left: int, judge: Judge) -> Iterator[str]:
    """One line for each change that makes room: the smallest that is enough, else the largest there is."""
    sizes = [
        *(_module(config, layout, load, judge, module) for module in GROWABLE),
        _attention(config, layout, load, judge),
        *_experts(config, layout, load, judge),
    ]
    found = [each for each in sizes if each is not None and each.left > left]
    yield from (each.line(left) for each in found)
    if not any(each.left > 0 for each in found):
        yield from _together(config, layout, load, left, judge, found)
    for name, smaller in (("max_num_batched_tokens", _fewer_rows), ("max_num_seqs", _fewer_sampled)):
        limits = [(value, judge(layout, changed)) for value, changed in smaller(load)]
        best = next(((value, room) for value, room in limits if room > 0), limits[-1] if limits else (0, left))
        if best[1] > left:
            old = load.rows if name == "max_num_batched_tokens" else load.sampled
            yield Proposal(f"{name} {best[0]} in place of {old}", best[1], {}).line(left)


def _fewer_rows(load: StepLoad) -> list[tuple[int, StepLoad]]:
    """A step carries at least one row of every running request."""
    return [(rows, replace(load, rows=rows)) for rows in _halves(load.rows) if rows >= load.sampled]


def _fewer_sampled(load: StepLoad) -> list[tuple[int, StepLoad]]:
    return [(sampled, replace(load, sampled=sampled)) for sampled in _halves(load.sampled)]


def _halves(value: int) -> list[int]:
    """Halves of a limit, down to one."""
    found = []
    while value > 1:
        value //= 2
        found.append(value)
    return found


def _given(layout: Layout, changes: Mapping[str, object]) -> dict[str, object]:
    """What was stated of a layout, with changes: sizes that followed from others follow again."""
    found: dict[str, object] = {}
    for setting in layout_settings():
        value: object = layout
        for part in setting.name.split("."):
            value = getattr(value, part, None) if value is not None else None
        if value is not None and setting.name not in layout.derived:
            found[setting.name] = value
    return found | dict(changes)


def _changed(config: ModelConfig, layout: Layout, changes: Mapping[str, object]) -> Layout:
    """The layout with changed sizes; LayoutError where the model or the world does not allow it."""
    found = resolve(_given(layout, changes), num_experts=config.num_experts)
    if found.world != layout.world:
        raise LayoutError(f"world {found.world} in place of {layout.world}")
    check_fit(found, config)
    return found


def _best(
    config: ModelConfig,
    layout: Layout,
    load: StepLoad,
    judge: Judge,
    text: str,
    candidates: Iterator[tuple[str, dict[str, object]]],
) -> Proposal | None:
    """The first of ever larger changes that is enough, else the one that leaves most."""
    best: Proposal | None = None
    for shown, given in candidates:
        try:
            left = judge(_changed(config, layout, given), load)
        except LayoutError:
            continue
        if best is None or left > best.left:
            best = Proposal(f"{text} {shown}", left, given)
        if left > 0:
            break
    return best


def _module(config: ModelConfig, layout: Layout, load: StepLoad, judge: Judge, module: str) -> Proposal | None:
    part = getattr(layout, module)
    if part is None:
        return None
    larger = (size for size in divisors(layout.stage_size) if size > part.tp)
    sizes = ((f"{size} in place of {part.tp}", _freed({f"{module}.tp": size}, layout, module, size)) for size in larger)
    return _best(config, layout, load, judge, f"{module} tp", sizes)


def _freed(changes: dict[str, object], layout: Layout, module: str, size: int) -> dict[str, object]:
    """With `within` taken off where a block would be larger than a node."""
    if module in ("o_proj", "lm_head") and size > layout.ranks_per_node:
        changes[f"{module}.within"] = None
    return changes


def _attention(config: ModelConfig, layout: Layout, load: StepLoad, judge: Judge) -> Proposal | None:
    """Larger attention tp with as many fewer dp groups: the same ranks."""
    tp, dp = layout.attention.tp, layout.attention.dp
    steps = (size for size in divisors(dp) if size > 1)
    sizes: Iterator[tuple[str, dict[str, object]]] = (
        (
            f"{tp * step} (dp {dp // step}) in place of {tp} (dp {dp})",
            {"attention.tp": tp * step, "attention.dp": dp // step},
        )
        for step in steps
    )
    return _best(config, layout, load, judge, "attention tp", sizes)


def _experts(config: ModelConfig, layout: Layout, load: StepLoad, judge: Judge) -> Iterator[Proposal | None]:
    """Experts over more ranks, or every expert over more."""
    experts = layout.experts
    if experts is None:
        return
    room = layout.stage_size // (experts.tp * experts.ep)
    for name, size in (("ep", experts.ep), ("tp", experts.tp)):
        steps = (step for step in divisors(room) if step > 1)
        sizes: Iterator[tuple[str, dict[str, object]]] = (
            (f"{size * step} in place of {size}", {f"experts.{name}": size * step}) for step in steps
        )
        yield _best(config, layout, load, judge, f"experts {name}", sizes)


def _together(
    config: ModelConfig, layout: Layout, load: StepLoad, left: int, judge: Judge, found: list[Proposal]
) -> Iterator[str]:
    """The changes of sizes one after the other, those that save most first, until they are enough."""
    given: dict[str, object] = {}
    texts: list[str] = []
    most = left
    for each in sorted(found, key=lambda each: -each.left):
        if given.keys() & each.given.keys():
            continue
        try:
            room = judge(_changed(config, layout, given | dict(each.given)), load)
        except LayoutError:
            continue
        if room <= most:
            continue
        given, most = given | dict(each.given), room
        texts.append(each.text.partition(" in place")[0])
        if room > 0:
            break
    if len(texts) > 1:
        yield Proposal(f"together, {', '.join(texts)}", most, given).line(left)
