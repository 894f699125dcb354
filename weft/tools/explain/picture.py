"""The picture of a layout: ranks as columns, modules as rows, a heavy bar where a module's block begins.

A cell says which part of the module the rank holds. Ranks that do not fit the width are counted, not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import describe
from weft.tools.explain.memory import RankMemoryUse, modules_of
from weft.tools.explain.report import LayoutReport
from weft.tools.explain.units import binary

LABEL = 14
"""Least width of the labels."""
UNITS = {
    "embedding": "vocabulary rows",
    "attention": "query heads / KV heads",
    "o_proj": "attention's columns",
    "dense": "intermediate columns",
    "experts": "slots / intermediate columns",
    "shared_experts": "intermediate columns",
    "lm_head": "vocabulary rows",
}
HEAVY, LIGHT, NONE = "┃", "│", " "


class _Widths(NamedTuple):
    """Columns of the labels and of one rank's cell."""

    label: int
    cell: int


def picture(report: LayoutReport, width: int) -> Iterator[Text]:
    """Lines of at most `width` columns where one rank fits at all."""
    cell = _Widths(_label_width(report), _cell_width(report))
    shown = max(1, min(len(report.ranks), (width - cell.label - 1) // (cell.cell + 1)))
    ranks = report.ranks[:shown]
    yield from _headings(report.layout, ranks, cell)
    yield Text(f"{'holds':<{cell.label}}", "bold")
    for module in _drawn(report):
        yield _held(report, module, ranks, cell)
    yield Text(f"{'bytes':<{cell.label}}", "bold")
    for module in modules_of(report.config):
        view = module == "lm_head" and report.tied_view
        yield _line(module, ["view" if view else binary(rank.bytes[module]) for rank in ranks], cell, lambda _: NONE)
    yield _line("weights", [binary(rank.total) for rank in ranks], cell, lambda _: NONE, "bold")
    yield _line("KV per token", [binary(rank.kv_bytes_per_token) for rank in ranks], cell, lambda _: NONE)
    if shown < len(report.ranks):
        yield Text(f"... and {len(report.ranks) - shown} more ranks (--json lists all)", "dim")


def _headings(layout: Layout, ranks: Sequence[RankMemoryUse], cell: _Widths) -> Iterator[Text]:
    yield _line("", [f"rank {rank.rank}" for rank in ranks], cell, lambda _: NONE, "bold")
    places = [describe(layout, rank.rank).partition(" (")[2].removesuffix(")").replace(",", "") for rank in ranks]
    if any(places):
        yield _line("", places, cell, lambda _: NONE)
    if layout.nodes > 1:
        yield _line("", [f"node {rank.node}" for rank in ranks], cell, lambda _: NONE)
    if layout.pipeline.stages > 1:
        layers = [f"layers {rank.layers[0]}:{rank.layers[1]}" for rank in ranks]
        yield _line("", layers, cell, lambda _: NONE)


def _held(report: LayoutReport, module: str, ranks: Sequence[RankMemoryUse], cell: _Widths) -> Text:
    """One module's row: its size, what each rank holds, where its blocks begin."""
    size = report.layout.sizes[module]
    cells = [_share(report, module, rank) for rank in ranks]
    line = _line(_title(report, module), cells, cell, lambda rank: HEAVY if rank % size == 0 else LIGHT)
    line.append(f"  {UNITS[module]}", "dim")
    return line


def _title(report: LayoutReport, module: str) -> str:
    mark = "·" if f"{module}.tp" in report.layout.derived else ""
    return f"{module} {report.layout.sizes[module]}{mark}"


def _share(report: LayoutReport, module: str, rank: RankMemoryUse) -> str:
    if not rank.bytes[module] and not (module == "lm_head" and report.tied_view):
        return "-"
    if module == "attention":
        return f"{_interval(rank.q_heads)} / {_interval(rank.kv_heads)}"
    if module == "experts" and rank.slots is not None:
        return f"{_interval(rank.slots)} / {_interval(rank.shares[module].interval)}"
    return _interval(rank.shares[module].interval)


def _drawn(report: LayoutReport) -> list[str]:
    """The sharded modules that the model has."""
    return [module for module in modules_of(report.config) if module in UNITS]


def _interval(interval: tuple[int, int]) -> str:
    return f"{interval[0]}:{interval[1]}"


def _line(label: str, cells: Sequence[str], cell: _Widths, bar: Callable[[int], str], style: str = "") -> Text:
    line = Text(f"{label:<{cell.label}}", style or "cyan")
    for rank, text in enumerate(cells):
        line.append(bar(rank), "bold" if bar(rank) == HEAVY else "dim")
        line.append(f"{text:^{cell.cell}}", style)
    end = bar(0)
    return line.append(end, "bold") if end == HEAVY else line


def _label_width(report: LayoutReport) -> int:
    return max(LABEL, *(len(_title(report, module)) + 1 for module in _drawn(report)))


def _cell_width(report: LayoutReport) -> int:
    """Wide enough for every cell of every rank; the last rank has the longest name."""
    cells = [_share(report, module, rank) for module in _drawn(report) for rank in report.distinct]
    cells += [binary(size) for rank in report.distinct for size in rank.bytes.values()]
    cells.append(describe(report.layout, report.layout.world - 1).partition(" (")[2].replace(",", ""))
    return max(map(len, cells)) + 2
