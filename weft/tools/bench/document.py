"""A benchmark as JSON, schema weft.bench/1. Reads records; measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from weft.base.options import settings_of
from weft.base.settings import EngineConfig
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_dict
from weft.runtime.launch_plan.plan import LaunchPlan
from weft.tools.bench.compare import Change, Measured, Row, WeightMemory, change, differences
from weft.tools.bench.drive import BenchRun
from weft.tools.bench.machine import commit, machine, shown_command, versions
from weft.tools.bench.settings import BenchSettings, bench_options
from weft.tools.bench.stats import Spread, Summary, by_load, middle

SCHEMA = "weft.bench/1"


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured: a server at `url`, or our own under `plan`; with a `layout` over several hosts, whose plan the
    server alone makes."""

    name: str
    url: str | None = None
    plan: LaunchPlan | None = None
    server: Mapping[str, object] | None = None
    """What the server says about itself."""
    layout: Layout | None = None

    def document(self) -> dict[str, object]:
        """Layout and settings as resolved; null for a server that others started."""
        plan = self.plan
        layout = self.layout if plan is None else plan.layout
        return {
            "model": self.name,
            "url": self.url,
            "server": None if self.server is None else dict(self.server),
            "layout": None if layout is None else to_dict(layout),
            "engine": None if plan is None else _engine(plan),
            "collectives": None if plan is None else str(plan.comm),
        }


def document(
    words: Sequence[str], settings: BenchSettings, subject: Subject, runs: Sequence[tuple[BenchRun, Summary]]
) -> dict[str, object]:
    """Of one server."""
    summaries = [summary for _, summary in runs]
    return {
        **_head("bench", words, settings),
        **subject.document(),
        "runs": [run_document(run, summary) for run, summary in runs],
        "medians": [_median(load.document(), many) for load, many in by_load(summaries).items()],
    }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout of a comparison."""

    subject: Subject
    file: str
    memory: WeightMemory


def comparison(
    words: Sequence[str],
    settings: BenchSettings,
    candidates: Sequence[Candidate],
    table: Sequence[Row],
    runs: Mapping[str, Sequence[tuple[BenchRun, Summary]]],
) -> dict[str, object]:
    """Of several layouts, each against the first."""
    first = {row.load: row for row in table if row.name == candidates[0].subject.name}
    return {
        **_head("compare", words, settings),
        "layouts": [_layout(candidate, candidates[0]) for candidate in candidates],
        "rows": [_row(row, first[row.load]) for row in table],
        "runs": {name: [run_document(run, summary) for run, summary in many] for name, many in runs.items()},
    }


def _head(kind: str, words: Sequence[str], settings: BenchSettings) -> dict[str, object]:
    rates = settings.request_rate
    workload = {setting.name: getattr(settings, setting.name) for setting in bench_options()}
    return {
        "schema": SCHEMA,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shown_command(words),
        "workload": workload | {"request_rate": None if rates is None else [_number(rate) for rate in rates]},
        "versions": versions(),
        "machine": machine(),
        "git": commit(Path(__file__).parent),
    }


def _layout(candidate: Candidate, first: Candidate) -> dict[str, object]:
    plan, base = candidate.subject.plan, first.subject.plan
    assert plan is not None and base is not None
    return {
        "name": candidate.subject.name,
        "file": candidate.file,
        **candidate.subject.document(),
        "differs": {name: list(pair) for name, pair in differences(base.layout, plan.layout).items()},
        "bytes_per_rank": candidate.memory.modules | {"total": candidate.memory.total},
        "bytes_of_all_ranks": candidate.memory.world,
        "saved_per_rank": first.memory.saved(candidate.memory),
    }


def _row(row: Row, first: Row) -> dict[str, object]:
    return {
        "layout": row.name,
        **row.load.document(),
        "tpot_ms": _measured(row.tpot, change(first.tpot, row.tpot)),
        "output_tokens_per_s": _measured(row.output_rate, change(first.output_rate, row.output_rate)),
        "ttft_ms": _measured(row.ttft, change(first.ttft, row.ttft)),
        "failed": row.failed,
    }


def _measured(value: Measured | None, against: Change | None) -> dict[str, object] | None:
    if value is None:
        return None
    found: dict[str, object] = {
        "median": round(value.median, 4),
        "min": round(value.low, 4),
        "max": round(value.high, 4),
    }
    if against is not None:
        found |= {"change": round(against.by, 4), "change_percent": round(against.percent, 3), "clear": against.clear}
    return found


def run_document(run: BenchRun, summary: Summary) -> dict[str, object]:
    """One run: numbers, failures by reason, and a line for every request."""
    return {
        **summary.load.document(),
        "repeat": summary.repeat,
        "requests": summary.requests,
        "completed": summary.completed,
        "failed": summary.failed,
        "failures": {reason: {"count": n, "example": text} for reason, (n, text) in summary.failures.items()},
        "short_answers": summary.short,
        "tokens_counted_by_pieces": summary.uncounted,
        **_rates(summary),
        **_spreads(summary),
        "client_cpu_share": round(summary.client_share, 4),
        "sent_late_s": round(summary.late, 4),
        "per_request": {
            "columns": ["sent_s", "ttft_ms", "latency_ms", "input_tokens", "output_tokens", "problem"],
            "rows": [
                [
                    round(o.sent, 4), _ms(o.ttft), _ms(o.latency), o.input_tokens, o.output_tokens, o.problem,
                ]
                for o in run.outcomes
            ],
        },
    }  # fmt: skip


def _rates(summary: Summary) -> dict[str, object]:
    return {
        "duration_s": round(summary.duration, 4),
        "input_tokens": summary.input_tokens,
        "cached_tokens": summary.cached_tokens,
        "output_tokens": summary.output_tokens,
        "requests_per_s": round(summary.request_rate, 4),
        "output_tokens_per_s": round(summary.output_rate, 3),
        "total_tokens_per_s": round(summary.total_rate, 3),
    }


def _spreads(summary: Summary) -> dict[str, object]:
    spreads: dict[str, Spread] = {
        "ttft_ms": summary.ttft, "tpot_ms": summary.tpot, "itl_ms": summary.itl, "latency_ms": summary.latency
    }  # fmt: skip
    return {name: value.document() for name, value in spreads.items()}


def _median(load: dict[str, object], many: Sequence[Summary]) -> dict[str, object]:
    """Medians over the repetitions of a load."""
    rates = {
        "output_tokens_per_s": middle(one.output_rate for one in many),
        "total_tokens_per_s": middle(one.total_rate for one in many),
        "requests_per_s": middle(one.request_rate for one in many),
    }
    found: dict[str, object] = {**load, "repetitions": len(many), "failed": sum(one.failed for one in many)}
    found |= {name: None if value is None else round(value, 3) for name, value in rates.items()}
    for name, pick in (("ttft_ms", "ttft"), ("tpot_ms", "tpot"), ("itl_ms", "itl")):
        spreads: list[Spread] = [getattr(one, pick) for one in many]
        medians = {share: middle(getattr(one, share) for one in spreads) for share in ("p50", "p90", "p99")}
        found[name] = {share: None if value is None else round(value, 4) for share, value in medians.items()}
    return found


def _engine(plan: LaunchPlan) -> dict[str, object]:
    return {setting.name: getattr(plan.engine, setting.name) for setting in settings_of(EngineConfig)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _number(rate: float) -> float | str:
    return "inf" if rate == float("inf") else rate
