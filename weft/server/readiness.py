"""Readiness: the body of /ready. A plain record."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from weft.launch.report import RankReport
from weft.server.errors import ErrorInfo

Status = Literal["starting", "ready", "restarting", "draining", "stopped"]


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`restarts`: how many sets of ranks have died. `error`: OpenAI's error object, unless the server is ready."""

    status: Status
    restarts: int
    ranks: list[RankReport]
    error: ErrorInfo | UnsetType = UNSET
