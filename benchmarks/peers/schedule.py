"""Which visits are still to be made, in which order, and the file that they are kept in after each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import Case
from benchmarks.peers.engines import Engine
from weft.base.errors import UsageError
from weft.tools.bench.compare import interleaved

SCHEMA = "weft.peers/1"
KINDS = ("offline", "served")
USUAL_S = 40.0
"""A visit, where none has been timed yet."""
MOST_STOLEN = 0.05
"""Of the cores' time, given to others by the hypervisor: a visit that lost more says little about an engine."""
TRIES, PAUSE_S = 4, 20.0


@dataclass(frozen=True, slots=True)
class Visit:
    """To be made: an engine, offline or served, in a round, with cases that it does not have in that round yet."""

    engine: Engine
    kind: str
    round: int
    cases: tuple[Case, ...]


class Record:
    """The results file: a head and a visit per line. Written after every visit, so that a run can be resumed."""

    def __init__(self, path: Path, head: dict[str, Any], resume: bool) -> None:
        self.path, self.head = path, head
        self.visits: list[dict[str, Any]] = read(path)["visits"] if resume and path.exists() else []

    def add(self, visit: dict[str, Any]) -> None:
        """Keeps it; a failed one of the same engine, kind and round is replaced."""
        place = [visit[key] for key in ("engine", "kind", "round")]
        self.visits = [
            one for one in self.visits if not (failed(one) and [one["engine"], one["kind"], one["round"]] == place)
        ]
        self.visits.append(visit)
        self.write()

    def write(self) -> None:
        """The whole file, in place of the old one only when complete."""
        head = ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in {"schema": SCHEMA, **self.head}.items())
        lines = ",\n".join(f"  {json.dumps(visit)}" for visit in self.visits)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(f'{{\n{head},\n "visits": [\n{lines}\n ]\n}}\n')
        part.replace(self.path)

    def measured(self, engine: Engine, kind: str, number: int) -> set[str]:
        """Names of the cases that this round has already."""
        return {
            case
            for visit in self.visits
            if (visit["engine"], visit["kind"], visit["round"]) == (engine.name, kind, number)
            for case, found in visit["cases"].items()
            if "error" not in found
        }

    def usual_s(self, visit: Visit) -> float:
        """How long such a visit has taken."""
        times = [
            one["seconds"] for one in self.visits if (one["engine"], one["kind"]) == (visit.engine.name, visit.kind)
        ]
        return sum(times) / len(times) if times else USUAL_S


def read(path: Path) -> dict[str, Any]:
    """A results file. UsageError where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {path}: not a file of results: {error}") from None
    if not isinstance(found, dict) or "visits" not in found:
        raise UsageError(f"--out {path}: not a file of results of this command: it has no visits")
    return found


def failed(visit: dict[str, Any]) -> bool:
    """Whether it is worth trying again."""
    return "error" in visit or "refused" in visit


def least_disturbed(
    visit: Callable[[], dict[str, Any]], pause: Callable[[float], None] = time.sleep
) -> tuple[dict[str, Any], int]:
    """The first record that was robbed of MOST_STOLEN at most, or of TRIES the one that was robbed least; and how many
    others there were."""
    made: list[dict[str, Any]] = []
    while not made or (made[-1]["stolen"] > MOST_STOLEN and len(made) < TRIES):
        if made:
            pause(PAUSE_S)
        made.append(visit())
    return min(made, key=lambda one: one["stolen"]), len(made) - 1


def to_do(engines: Sequence[Engine], cases: Sequence[Case], rounds: int, record: Record) -> Iterator[Visit]:
    """Every round visits each engine once offline and once served; there and back, so that a drift hits all alike."""
    for kind in KINDS:
        mine = [case for case in cases if case.served == (kind == "served")]
        able = [engine for engine in engines if kind == "offline" or engine.words is not None]
        for number, place in interleaved(len(able), rounds):
            there = record.measured(able[place], kind, number)
            missing = tuple(case for case in mine if case.name not in there)
            if missing:
                yield Visit(able[place], kind, number, missing)
