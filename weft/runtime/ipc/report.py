"""RankReport: where a rank is and how far, for people and for /ready. A plain record."""

from __future__ import annotations

import msgspec


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """`cpus` empty: not pinned. `numa_node` None: more than one, or unknown. `since_s`: in this phase for so long.

    Since it was ready: `busy_s` in steps, of which `collective_s` in collectives, waiting for peers included; `rows` of
    its own; `collective_bytes` received. With pipeline stages `stage_wait_s` of the time in collectives is in messages
    of other stages, and `stage_idle` is its share of `busy_s`. What it holds: bytes of weights and of the KV cache (its
    pages come when they are first written); 0 before it is warm."""

    rank: int
    coordinates: dict[str, int]
    host: str
    pid: int
    device: str
    cpus: list[int]
    numa_node: int | None
    phase: str
    detail: str
    since_s: float
    busy_s: float = 0.0
    rows: int = 0
    collective_s: float = 0.0
    collective_bytes: int = 0
    stage_wait_s: float = 0.0
    stage_idle: float = 0.0
    weight_bytes: int = 0
    kv_cache_bytes: int = 0
