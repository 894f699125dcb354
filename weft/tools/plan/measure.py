"""Measures layouts of a plan on this machine: `weft bench --compare` in a child, which takes them in turns."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from weft.base.errors import ConfigError, UnavailableError
from weft.base.machine.interpreter import finding_weft, runs
from weft.parallel.layout.serialize import to_yaml
from weft.tools.plan.goal import Goal
from weft.tools.plan.plan import Ranked
from weft.tools.plan.reasons import name_of

LEAST = 2
"""Layouts that a comparison needs."""


@dataclass(frozen=True, slots=True)
class MeasuredLayout:
    """`tpot`: seconds of a token, median of the repetitions; `rate`: tokens of answers a second; None: not seen."""

    name: str
    predicted: float
    tpot: float | None
    rate: float | None


def measure(words: Sequence[str], layouts: Sequence[Ranked], goal: Goal) -> list[MeasuredLayout]:
    """Fastest first. `words`: the model and the engine's options, as weft bench takes them. UnavailableError: bench
    ended without a result, whose reason it has printed."""
    if len(layouts) < LEAST:
        raise ConfigError("measure: only one layout fits, so there is nothing to compare", field="measure")
    with TemporaryDirectory() as folder:
        files = []
        for place, ranked in enumerate(layouts, 1):
            file = Path(folder) / f"{place}.yaml"
            file.write_text(to_yaml(ranked.layout), encoding="utf-8")
            files.append(str(file))
        saved = Path(folder) / "found.json"
        load = ("--concurrency", str(goal.streams), "--input-len", str(goal.prompt), "--output-len", str(goal.answer))
        command = [*runs("weft"), "bench", *words, "--compare", *files, *load, "--json", "--save", str(saved)]
        environment = finding_weft(os.environ)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, check=False
        )
        if not saved.exists():
            raise UnavailableError(f"weft bench ended with {done.returncode} and measured nothing")
        rows = {row["layout"]: row for row in json.loads(saved.read_text())["rows"]}
    found = [_measured(rows.get(Path(file).stem, {}), ranked) for file, ranked in zip(files, layouts, strict=True)]
    return sorted(found, key=lambda one: -(one.rate or 0.0))


def measured_lines(found: Sequence[MeasuredLayout]) -> list[str]:
    """For people: what was measured is the advice."""
    lines = ["measured, fastest first (predicted beside it):"]
    for one in found:
        tpot = "nothing" if one.tpot is None else f"{one.tpot * 1e3:.2f} ms a token"
        rate = "" if one.rate is None else f", {one.rate:.1f} tokens/s"
        lines.append(f"  {one.name}: {tpot}{rate} (predicted {one.predicted * 1e3:.2f} ms a token)")
    return lines


def _measured(row: dict[str, dict[str, float] | None], ranked: Ranked) -> MeasuredLayout:
    tpot, rate = row.get("tpot_ms"), row.get("output_tokens_per_s")
    seconds = tpot["median"] / 1e3 if tpot else None
    return MeasuredLayout(name_of(ranked.candidate), ranked.times.step, seconds, rate["median"] if rate else None)
