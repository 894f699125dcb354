"""From visits to rows: medians, shares of the bound, ratios, agreement of ids. Draws nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.cases import OFFLINE, SERVED, Case
from benchmarks.peers.engines import ENGINES, Engine
from benchmarks.peers.probe import State, name
from benchmarks.peers.report.limits import Shape, bound
from weft.tools.bench.compare import Measured, measured

Visit = Mapping[str, Any]
Column = tuple[Case, str]
"""A case and one of its quantities."""
REFERENCE = "transformers"


def columns() -> list[Column]:
    """What a row can show, in order. Long contexts have two figures, the others one."""
    found: list[Column] = []
    for case in OFFLINE:
        plain = "output" if case.streams > 1 else case.name
        found += [(case, one) for one in (("prefill", "decode") if case.name.startswith("long") else (plain,))]
    return found


SERVED_QUANTITIES = ("output", "ttft_p50", "ttft_p99", "itl_p50", "itl_p99")


@dataclass(slots=True)
class Row:
    """An engine's figures. `figures`: (case, quantity) -> tokens per second; `shares`: of the bound, same keys;
    `served`: (case, quantity) -> tokens per second or ms. Memory in bytes, `cold` in seconds."""

    engine: Engine
    version: str = ""
    figures: dict[tuple[str, str], Measured] = field(default_factory=dict)
    shares: dict[tuple[str, str], Measured] = field(default_factory=dict)
    served: dict[tuple[str, str], Measured] = field(default_factory=dict)
    cold: dict[str, Measured] = field(default_factory=dict)
    peak: dict[str, Measured] = field(default_factory=dict)
    pss: dict[str, Measured] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    agreement: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def memory_state(self) -> str:
        """Median bandwidth beside the figures, and how often the machine was in its fast state."""
        if not (rates := measured([state["gb_per_s"] for state in self.states])):
            return ""
        fast = sum(name(state) == "fast" for state in self.states)
        return f"{rates.median:.0f} [{rates.low:.0f}..{rates.high:.0f}], fast {fast}/{len(self.states)}"


def rows(visits: Sequence[Visit], shape: Shape) -> list[Row]:
    """One for each engine that was visited, in the table's order."""
    reference = _ids([visit for visit in visits if visit["engine"] == REFERENCE])
    return [
        _row(engine, mine, shape, reference)
        for engine in ENGINES
        if (mine := [visit for visit in visits if visit["engine"] == engine.name])
    ]


def _row(engine: Engine, visits: Sequence[Visit], shape: Shape, reference: Mapping[str, Any]) -> Row:
    row = Row(engine, next((visit["version"] for visit in visits if "version" in visit), ""))
    for kind in ("offline", "served"):
        mine = [visit for visit in visits if visit["kind"] == kind]
        for found, key, scale in ((row.cold, "cold_s", 1), (row.peak, "peak_bytes", 1), (row.pss, "pss_bytes", 1)):
            if value := measured([visit[key] * scale for visit in mine if key in visit]):
                found[kind] = value
    for case, quantity in columns():
        _put(row.figures, row.shares, case, quantity, list(_samples(visits, case)), engine, shape)
    for case in SERVED:
        for quantity in SERVED_QUANTITIES:
            if value := measured([sample[quantity] for sample in _samples(visits, case)]):
                row.served[case.name, quantity] = value
    row.states = [sample["state"] for case in (*OFFLINE, *SERVED) for sample in _samples(visits, case)]
    row.agreement = agreement(_ids(visits), reference)
    row.problems = list(dict.fromkeys(_problems(visits)))
    return row


def _put(
    figures: dict[tuple[str, str], Measured],
    shares: dict[tuple[str, str], Measured],
    case: Case,
    quantity: str,
    samples: Sequence[Mapping[str, Any]],
    engine: Engine,
    shape: Shape,
) -> None:
    there = [sample for sample in samples if quantity in sample]
    if value := measured([sample[quantity] for sample in there]):
        figures[case.name, quantity] = value
    bounds = [bound(shape, case, quantity, engine.dtype, sample["state"]) for sample in there]
    share = [sample[quantity] / limit for sample, limit in zip(there, bounds, strict=True) if limit]
    if value := measured(share):
        shares[case.name, quantity] = value


def _samples(visits: Sequence[Visit], case: Case) -> Iterator[Mapping[str, Any]]:
    """Every repetition of a case."""
    for visit in visits:
        found = visit.get("cases", {}).get(case.name, {})
        yield from found.get("bursts", [found] if "state" in found else [])


def _problems(visits: Sequence[Visit]) -> Iterator[str]:
    for visit in visits:
        for word in ("refused", "error"):
            if word in visit:
                yield f"{visit['kind']}: {'refused: ' if word == 'refused' else ''}{visit[word]}"
        for case, found in visit.get("cases", {}).items():
            if "error" in found:
                yield f"{case}: {found['error']}"


def _ids(visits: Sequence[Visit]) -> dict[str, list[list[int]]]:
    """Of the first visit that has some, by case."""
    found: dict[str, list[list[int]]] = {}
    for visit in visits:
        found = {**visit.get("ids", {}), **found}
    return found


def agreement(ids: Mapping[str, list[list[int]]], reference: Mapping[str, list[list[int]]]) -> str:
    """For one stream, the ids before the first that differs; for several, how many streams agree whole."""
    said = []
    for case in [case for case in ids if case in reference]:
        lengths = [common(a, b) for a, b in zip(ids[case], reference[case], strict=False)]
        sizes = [min(len(a), len(b)) for a, b in zip(ids[case], reference[case], strict=False)]
        if len(lengths) == 1:
            said.append(f"{lengths[0]}/{sizes[0]}")
        else:
            whole = sum(length == size for length, size in zip(lengths, sizes, strict=True))
            said.append(f"{whole}/{len(sizes)} streams")
    return ", ".join(said)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over theirs, of medians. `clear`: several repetitions of each, none among the
    other's."""

    ours: str
    theirs: str
    case: str
    quantity: str
    value: float
    clear: bool


def ratios(found: Sequence[Row]) -> list[Ratio]:
    """Each of ours on one rank against the best peer with weights as wide; more ranks against one, settings alike."""
    ratios: list[Ratio] = []
    for table in ("figures", "served"):
        for row in (row for row in found if row.engine.ours):
            if row.engine.tp > 1:
                alone = {**row.engine.options, "tp": 1}
                others = [each for each in found if each.engine.ours and each.engine.options == alone]
            else:
                others = [peer for peer in found if not peer.engine.ours and peer.engine.dtype == row.engine.dtype]
            ratios += _against(row, others, table)
    return ratios


def _against(row: Row, others: Sequence[Row], table: str) -> Iterator[Ratio]:
    for key, value in getattr(row, table).items():
        rivals = [(getattr(other, table)[key], other) for other in others if key in getattr(other, table)]
        if not rivals:
            continue
        less_is_better = key[1].startswith(("ttft", "itl"))
        best, other = (min if less_is_better else max)(rivals, key=lambda pair: pair[0].median)
        clear = value.low < value.high and best.low < best.high and value.clear_of(best)
        yield Ratio(row.engine.name, other.engine.name, key[0], key[1], value.median / best.median, clear)
