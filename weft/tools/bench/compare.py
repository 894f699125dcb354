"""Layouts against the first: weight memory by module, and what it does to time and throughput. Starts no process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.base.settings import DTYPE_BYTES
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_dict
from weft.tools.bench.settings import OfferedLoad
from weft.tools.bench.stats import Summary, middle
from weft.tools.explain.memory import MODULES, memory_of_ranks


@dataclass(frozen=True, slots=True)
class WeightMemory:
    """Weights on one rank, in bytes: by module on the rank that holds most of it, and of the fullest rank in all."""

    modules: dict[str, int]
    total: int
    world: int
    """Weights of all ranks together."""

    def saved(self, other: WeightMemory) -> dict[str, int]:
        """What `other` holds less than this, by module and as 'total'."""
        modules = {module: size - other.modules[module] for module, size in self.modules.items()}
        return modules | {"total": self.total - other.total}


def memory_of(shards: Shards, dtype: str) -> WeightMemory:
    """Of a layout, from what each rank holds."""
    ranks = memory_of_ranks(shards, DTYPE_BYTES[dtype])
    held = [module for module in MODULES if any(module in rank.bytes for rank in ranks)]
    modules = {module: max(rank.bytes.get(module, 0) for rank in ranks) for module in held}
    return WeightMemory(modules, max(rank.total for rank in ranks), sum(rank.total for rank in ranks))


def differences(first: Layout, other: Layout) -> dict[str, tuple[object, object]]:
    """Dotted field -> (first's value, other's) where they differ."""
    ours, theirs = _flat(to_dict(first)), _flat(to_dict(other))
    return {
        name: (ours.get(name), theirs.get(name))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    }


def _flat(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity over the repetitions of a load: median, and the least and the most that was seen."""

    median: float
    low: float
    high: float

    def clear_of(self, other: Measured) -> bool:
        """Whether not one repetition of either lies among the other's."""
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True, slots=True)
class Row:
    """A layout under a load. TPOT in ms (p50 of a run), throughput in output tokens per second; None: nothing seen."""

    name: str
    load: OfferedLoad
    tpot: Measured | None
    output_rate: Measured | None
    ttft: Measured | None
    failed: int


def rows(names: Sequence[str], summaries: Mapping[str, Sequence[Summary]]) -> list[Row]:
    """Every load, and under it every layout in order."""
    loads = list(dict.fromkeys(summary.load for name in names for summary in summaries[name]))
    return [_row(name, load, [s for s in summaries[name] if s.load == load]) for load in loads for name in names]


def _row(name: str, load: OfferedLoad, runs: Sequence[Summary]) -> Row:
    return Row(
        name,
        load,
        measured([run.tpot.p50 for run in runs]),
        measured([run.output_rate if run.completed else None for run in runs]),
        measured([run.ttft.p50 for run in runs]),
        sum(run.failed for run in runs),
    )


def measured(values: Sequence[float | None]) -> Measured | None:
    """Of the values that are there."""
    there = [value for value in values if value is not None]
    center = middle(there)
    return None if center is None else Measured(center, min(there), max(there))


@dataclass(frozen=True, slots=True)
class Change:
    """Against the first layout. `clear`: no repetition of one lies among the other's."""

    by: float
    percent: float
    clear: bool


def change(first: Measured | None, other: Measured | None) -> Change | None:
    """None where one of them was not seen."""
    if first is None or other is None:
        return None
    by = other.median - first.median
    return Change(by, 100 * by / first.median if first.median else 0.0, first.clear_of(other))


def interleaved(count: int, repeat: int) -> list[tuple[int, int]]:
    """(repetition, layout) in the order of running: there and back, so that a drift of the machine hits all alike."""
    order = list(range(count))
    return [(number, layout) for number in range(repeat) for layout in (order if number % 2 == 0 else order[::-1])]
