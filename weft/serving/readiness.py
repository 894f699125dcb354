"""Readiness: the body of /ready. Plain records."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from weft.ipc.report import RankReport
from weft.serving.errors import ErrorInfo

Status = Literal["starting", "ready", "restarting", "draining", "stopped"]


class ReplicaStatus(msgspec.Struct, frozen=True):
    """`stopped` while the server goes on: its ranks died and are not started again."""

    replica: int
    status: Status
    restarts: int


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
    is ready, which it is while any replica is. `resolved`: to clients with a key, as `ranks` are."""

    status: Status
    restarts: int
    replicas: list[ReplicaStatus]
    ranks: list[RankReport]
    resolved: Resolved | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET
