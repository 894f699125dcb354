"""Assigned cores of this machine, for the report; the launcher assigns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RankCores:
    """`cpus`: numbers (empty: not pinned)."""

    cpus: tuple[int, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Cores:
    """`server`: CPUs of the front end and the engines (empty: where the ranks leave time). `lines`: all, for people."""

    ranks: tuple[RankCores, ...]
    server: tuple[int, ...]
    lines: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        ranks = [{"cpus": list(rank.cpus), "threads": rank.threads} for rank in self.ranks]
        return {"ranks": ranks, "server_cpus": list(self.server)}
