"""Benchmarks as tables for people. Reads records; prints only on the console that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from weft.tools.bench.compare import Change, Measured, Row, change, differences
from weft.tools.bench.document import Candidate
from weft.tools.bench.stats import Spread, Summary, by_load, middle
from weft.tools.explain.units import binary

SHARES = ("p50", "p90", "p99")
BUSY_CLIENT = 0.5
"""Share of a core above which the client itself may slow a small machine's server down."""


def print_runs(console: Console, summaries: Sequence[Summary]) -> None:
    """A line for each load (medians over repetitions); below it what failed and what to know."""
    table = _table("load", "done", "failed", "out tok/s", "total tok/s", "req/s")
    for name in ("TTFT", "TPOT", "ITL"):
        table.add_column(f"{name} ms p50", justify="right")
        table.add_column("p90", justify="right")
        table.add_column("p99", justify="right")
    for load, many in by_load(summaries).items():
        spreads = [_shares([getattr(one, name) for one in many]) for name in ("ttft", "tpot", "itl")]
        failed = sum(one.failed for one in many)
        table.add_row(
            str(load),
            str(sum(one.completed for one in many)),
            f"[red]{failed}[/]" if failed else "0",
            _number(middle(one.output_rate for one in many)),
            _number(middle(one.total_rate for one in many)),
            _number(middle(one.request_rate for one in many)),
            *(word for shares in spreads for word in shares),
        )
    console.print(table)
    for line in notes(summaries):
        console.print(line, markup=False, highlight=False)


def _shares(spreads: Sequence[Spread]) -> list[str]:
    return [_number(middle(getattr(one, share) for one in spreads)) for share in SHARES]


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What failed, by reason, and what could mislead a reader of the numbers."""
    lines = []
    for one in summaries:
        for reason, (number, example) in one.failures.items():
            lines.append(f"{one.load}: {number} of {one.requests} failed: {reason}: {example}")
    if short := sum(one.short for one in summaries):
        lines.append(f"{short} answers were shorter than asked for")
    if uncounted := sum(one.uncounted for one in summaries):
        lines.append(f"the server sent no usage for {uncounted} answers: their pieces of text were counted as tokens")
    cached, given = sum(one.cached_tokens for one in summaries), sum(one.input_tokens for one in summaries)
    if cached:
        lines.append(f"{cached} of {given} prompt tokens came from the server's prefix cache")
    busiest = max((one.client_share for one in summaries), default=0.0)
    if busiest > BUSY_CLIENT:
        lines.append(f"this client used up to {busiest:.0%} of a core: on a small machine the server lacked it")
    late = max((one.late for one in summaries if one.load.rate is not None), default=0.0)
    if late > 0.05:
        lines.append(f"requests were sent up to {late:.2f} s after their time: the rate was too high for this client")
    return lines


def print_memory(console: Console, candidates: Sequence[Candidate]) -> None:
    """Weights per rank by module: the first layout's bytes, then what each other saves."""
    first = candidates[0]
    memory = first.memory
    table = _table("weights per rank", "differs", *memory.modules, "total", "all ranks")
    table.add_row(
        first.subject.name, "", *map(binary, memory.modules.values()), binary(memory.total), binary(memory.world)
    )
    for other in candidates[1:]:
        saved = memory.saved(other.memory)
        words = [_saved(saved[name]) for name in (*memory.modules, "total")]
        table.add_row(other.subject.name, _differs(first, other), *words, binary(other.memory.world))
    console.print(table)


def _differs(first: Candidate, other: Candidate) -> str:
    assert first.subject.plan is not None and other.subject.plan is not None
    found = differences(first.subject.plan.layout, other.subject.plan.layout)
    return "\n".join(f"{name} {before} → {after}" for name, (before, after) in found.items()) or "nothing"


def _saved(size: int) -> str:
    if size == 0:
        return "same"
    return f"[green]{binary(size)} less[/]" if size > 0 else f"[yellow]{binary(-size)} more[/]"


def print_comparison(console: Console, names: Sequence[str], rows: Sequence[Row]) -> None:
    """TPOT and throughput of each load and layout, and their change against the first layout."""
    table = _table("load", "layout", "TPOT ms", "change", "", "out tok/s", "change", "TTFT ms", "change", "failed")
    first: Row | None = None
    for row in rows:
        if row.name == names[0]:
            first = row
        assert first is not None
        tpot, rate, ttft = (
            change(getattr(first, name), getattr(row, name)) if row is not first else None
            for name in ("tpot", "output_rate", "ttft")
        )
        table.add_row(
            str(row.load) if row is first else "", row.name,
            _range(row.tpot), _signed(tpot, " ms"), _percent(tpot, lower_is_better=True),
            _range(row.output_rate), _percent(rate, lower_is_better=False),
            _range(row.ttft), _percent(ttft, lower_is_better=True),
            f"[red]{row.failed}[/]" if row.failed else "0",
        )  # fmt: skip
        if row.name == names[-1]:
            table.add_section()
    console.print(table)
    console.print("~: within the spread of the repetitions", highlight=False)


def _range(value: Measured | None) -> str:
    if value is None:
        return "-"
    text = _number(value.median)
    return text if value.low == value.high else f"{text} ({_number(value.low)}..{_number(value.high)})"


def _signed(value: Change | None, unit: str) -> str:
    return "" if value is None else f"{value.by:+.3g}{unit}"


def _percent(value: Change | None, *, lower_is_better: bool) -> str:
    if value is None:
        return ""
    text = f"{value.percent:+.1f} %"
    if not value.clear:
        return f"~ {text}"
    return f"[green]{text}[/]" if (value.by < 0) == lower_is_better else f"[yellow]{text}[/]"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(first: str, *rest: str) -> Table:
    table = Table(first, box=None, pad_edge=False, header_style="bold")
    for name in rest:
        table.add_column(name, justify="left" if name in ("layout", "differs") else "right")
    return table
