"""Statistics of a run: percentiles, throughput, and what failed, by reason. Pure numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean, median

from weft.tools.bench.drive import BenchRun
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.settings import OfferedLoad


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some number of seconds, in milliseconds. None where nothing was seen."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    low: float | None
    high: float | None

    def document(self) -> dict[str, float | int | None]:
        """For JSON."""
        return {
            "count": self.count, "mean": _rounded(self.mean), "p50": _rounded(self.p50), "p90": _rounded(self.p90),
            "p99": _rounded(self.p99), "min": _rounded(self.low), "max": _rounded(self.high),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in numbers. Tokens and rates are those of completed requests; `failures`: reason -> (number, example)."""

    load: OfferedLoad
    repeat: int
    requests: int
    completed: int
    failures: dict[str, tuple[int, str]]
    short: int
    """Completed answers with fewer tokens than asked for."""
    uncounted: int
    """Completed answers whose tokens the server did not report: pieces of text were counted."""
    duration: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: Spread
    tpot: Spread
    itl: Spread
    latency: Spread
    client_share: float
    late: float
    """Seconds by which the latest request was sent after its time."""

    @property
    def failed(self) -> int:
        """Requests without a whole answer."""
        return self.requests - self.completed

    @property
    def output_rate(self) -> float:
        """Output tokens per second."""
        return self.output_tokens / self.duration if self.duration else 0.0

    @property
    def total_rate(self) -> float:
        """Input and output tokens per second."""
        return (self.input_tokens + self.output_tokens) / self.duration if self.duration else 0.0

    @property
    def request_rate(self) -> float:
        """Completed requests per second."""
        return self.completed / self.duration if self.duration else 0.0


def summarize(run: BenchRun) -> Summary:
    """A run in numbers."""
    outcomes = run.outcomes
    good = [outcome for outcome in outcomes if outcome.ok]
    return Summary(
        load=run.load,
        repeat=run.repeat,
        requests=len(outcomes),
        completed=len(good),
        failures=_failures(outcomes),
        short=sum(outcome.output_tokens < outcome.asked for outcome in good),
        uncounted=sum(not outcome.counted for outcome in good),
        duration=max((o.ended for o in outcomes), default=0.0) - min((o.sent for o in outcomes), default=0.0),
        input_tokens=sum(outcome.input_tokens for outcome in good),
        cached_tokens=sum(outcome.cached_tokens for outcome in good),
        output_tokens=sum(outcome.output_tokens for outcome in good),
        ttft=spread(outcome.ttft for outcome in good),
        tpot=spread(outcome.tpot for outcome in good),
        itl=spread(gap for outcome in good for gap in outcome.gaps),
        latency=spread(outcome.latency for outcome in good),
        client_share=run.client_share,
        late=max((outcome.sent - outcome.due for outcome in outcomes), default=0.0),
    )


def _failures(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, str]]:
    counts = Counter(outcome.problem for outcome in outcomes if outcome.problem is not None)
    return {
        problem: (number, next(outcome.detail for outcome in outcomes if outcome.problem == problem))
        for problem, number in counts.most_common()
    }


def spread(seconds: Iterable[float | None]) -> Spread:
    """Of the values that are there."""
    values = sorted(value * 1000 for value in seconds if value is not None)
    if not values:
        return Spread(0, None, None, None, None, None, None)
    return Spread(
        len(values), fmean(values), percentile(values, 50), percentile(values, 90), percentile(values, 99),
        values[0], values[-1],
    )  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, linear between neighbours."""
    place = (len(values) - 1) * share / 100
    low = floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def middle(values: Iterable[float | None]) -> float | None:
    """The median of the values that are there."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def by_load(summaries: Sequence[Summary]) -> dict[OfferedLoad, list[Summary]]:
    """Repetitions of each load, loads in order of appearance."""
    found: dict[OfferedLoad, list[Summary]] = {}
    for summary in summaries:
        found.setdefault(summary.load, []).append(summary)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
