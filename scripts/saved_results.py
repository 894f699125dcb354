"""The saved results of benchmarks/results by name, and their figures as words."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.roofline import RESULTS, read

INDEX: Mapping[str, Mapping[str, str]] = tomllib.loads((RESULTS / "index.toml").read_text())
MACHINES = ("zen5", "zen4", "amx", "avx2")


def named(what: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(machine, commit, result) of the files WHAT-MACHINE.json, in the order of MACHINES."""
    for machine in (*MACHINES, *sorted({entry["machine"] for entry in INDEX.values()} - set(MACHINES))):
        if (name := f"{what}-{machine}.json") in INDEX:
            yield machine, f"`{INDEX[name]['commit'][:9]}`", read(name)


def short(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(found: Mapping[str, float], name: str = "ratio") -> str:
    """Median [first quartile, third quartile]."""
    return f"{found[name]:.2f} [{found[name + '_q1']:.2f}, {found[name + '_q3']:.2f}]"
