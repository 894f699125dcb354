"""Readiness: the body of /ready. Plain records."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from weft.frontend.serving.errors import ErrorInfo
from weft.runtime.ipc.report import RankReport

Status = Literal["starting", "ready", "degraded", "restarting", "draining", "stopped"]
"""`starting`: a replica has never been ready. `degraded`: not all replicas serve, but at least one does."""


class ReplicaStatus(msgspec.Struct, frozen=True):
    """`stopped` while the server goes on: its ranks died and are not started again."""

    replica: int
    status: Status
    restarts: int


class QuarantineStatus(msgspec.Struct, frozen=True):
    """Requests that are refused, since ranks died of them, and how that ends."""

    requests: int
    lifted: str


def quarantine_of(lifted_in_s: Sequence[float]) -> QuarantineStatus | UnsetType:
    """`lifted_in_s`: seconds after which each entry is lifted, ascending; UNSET: there are none."""
    if not lifted_in_s:
        return UNSET
    when = f"the first in {lifted_in_s[0]:.0f} s, the last in {lifted_in_s[-1]:.0f} s; all when the server is restarted"
    return QuarantineStatus(len(lifted_in_s), when)


class Resolved(msgspec.Struct, frozen=True):
    """What was decided at the start: the layout with every size, and the settings in words."""

    layout: dict[str, object]
    settings: list[str]

    @property
    def fingerprint(self) -> str:
        """The layout's digest: the same for servers whose ranks compute in the same layout."""
        return "fp_" + sha256(msgspec.json.encode(self.layout, order="sorted")).hexdigest()[:16]


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`restarts`: how many sets of ranks have died, of all replicas. `error`: OpenAI's error object, unless the server
    serves. `resolved`: to clients with a key, as `ranks` are."""

    status: Status
    restarts: int
    replicas: list[ReplicaStatus]
    ranks: list[RankReport]
    resolved: Resolved | UnsetType = UNSET
    quarantine: QuarantineStatus | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET
