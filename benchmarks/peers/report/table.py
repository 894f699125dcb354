"""Rows as a page of Markdown: offline, over HTTP, ratios, what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.peers.cases import SERVED
from benchmarks.peers.report.limits import Shape, bound
from benchmarks.peers.report.summary import SERVED_QUANTITIES, Row, columns, ratios
from weft.tools.bench.compare import Measured, measured

MEGA = 1e6


def page(title: str, about: Mapping[str, Any], rows: Sequence[Row], shape: Shape) -> str:
    """The whole page."""
    head = "\n".join(f"- {name}: {value}" for name, value in about.items() if value is not None)
    parts = [f"# {title}", head]
    for name, table in (
        ("Offline", offline(rows, shape)),
        ("Over HTTP", served(rows)),
        ("Ratios of medians", against(rows)),
    ):
        if len(table) > 1:
            parts += [f"## {name}", markdown(table)]
    problems = [f"- {row.engine.name}: {problem}" for row in rows for problem in row.problems]
    if problems:
        parts += ["## Not measured", "\n".join(problems)]
    return "\n\n".join(parts) + "\n"


def offline(rows: Sequence[Row], shape: Shape) -> list[list[str]]:
    """Tokens per second, medians with least and most; in brackets the share of the bound. First line: the titles."""
    shown = [key for case, quantity in columns() if any((key := (case.name, quantity)) in row.figures for row in rows)]
    named = [case if case == quantity or quantity == "output" else f"{case} {quantity}" for case, quantity in shown]
    titles = ["engine", "version", "weights", *(f"{title} tok/s" for title in named)]
    table = [[*titles, "peak MB (PSS)", "cold s", "ids as transformers", "memory GB/s"]]
    for row in [row for row in rows if row.figures]:
        cells = [_figure(row, key) for key in shown]
        memory = f"{_mega(row.peak.get('offline'))} ({_mega(row.pss.get('offline'))})"
        start = [row.engine.name, row.version, row.engine.dtype]
        table.append([*start, *cells, memory, _short(row.cold.get("offline"), 1), row.agreement, row.memory_state])
    return [*table, *_limits(rows, shape, shown)] if len(table) > 1 else table


def _figure(row: Row, key: tuple[str, str]) -> str:
    share = row.shares.get(key)
    return _short(row.figures.get(key)) + (f" ({share.median:.0%})" if share else "")


def _limits(rows: Sequence[Row], shape: Shape, shown: Sequence[tuple[str, str]]) -> Iterable[list[str]]:
    """The bound of each width of weights, in the median state of all figures."""
    states = [state for row in rows for state in row.states]
    middle = {key: found.median for key in states[0] if (found := measured([state[key] for state in states]))}
    cases = {case.name: case for case, _ in columns()}
    for dtype in dict.fromkeys(row.engine.dtype for row in rows if row.figures):
        bounds = [bound(shape, cases[case], quantity, dtype, middle) for case, quantity in shown]
        cells = ["" if value is None else f"{value:.0f}" for value in bounds]
        rate = f"{middle['gb_per_s']:.0f}, {middle['gflop_per_s']:.0f} GFLOP/s"
        yield ["bound", "computed", dtype, *cells, "", "", "", rate]


def served(rows: Sequence[Row]) -> list[list[str]]:
    """A line for every server and number of streams."""
    titles = ["server", "weights", "streams", "output tok/s", "TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "ITL p99 ms"]
    table = [[*titles, "peak MB (PSS)", "cold s"]]
    for row in rows:
        memory = f"{_mega(row.peak.get('served'))} ({_mega(row.pss.get('served'))})"
        for case in [case for case in SERVED if (case.name, "output") in row.served]:
            cells = [_short(row.served.get((case.name, one))) for one in SERVED_QUANTITIES]
            start = [row.engine.name, row.engine.dtype, str(case.streams)]
            table.append([*start, *cells, memory, _short(row.cold.get("served"), 1)])
    return table


def against(rows: Sequence[Row]) -> list[list[str]]:
    """Ours over theirs; for times, less than 1 is the faster."""
    table = [["ours", "against", "case", "quantity", "ratio", "clear of each other"]]
    for one in ratios(rows):
        clear = "yes" if one.clear else "no"
        table.append([one.ours, one.theirs, one.case, one.quantity, f"{one.value:.2f}", clear])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The first line are the titles."""
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(value: Measured | None, digits: int | None = None) -> str:
    """Median, and least and most where they differ: three digits or all of a whole number."""
    if value is None:
        return ""
    places = digits if digits is not None else 1 if value.median < 100 else 0
    text = [f"{one:.{places}f}" for one in (value.median, value.low, value.high)]
    return text[0] if text[1] == text[2] else f"{text[0]} [{text[1]}..{text[2]}]"


def _mega(value: Measured | None) -> str:
    return "" if value is None else f"{value.median / MEGA:.0f}"
