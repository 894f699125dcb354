"""The comm backends, the fastest first, and which of them a world uses. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.base.plural import counted
from weft.compute.comm.backend import Backend, SingleRank
from weft.compute.comm.distributed.backend import Gloo
from weft.compute.comm.distributed.tcp import Tcp
from weft.compute.comm.groups import groups_of
from weft.compute.comm.mailboxes import NO_MAILBOXES, Mailboxes
from weft.compute.comm.shm.backend import SharedMemory
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.ranks import Group

SINGLE_RANK = SingleRank()
BETWEEN_HOSTS = Tcp()
BACKENDS: tuple[Backend, ...] = (SharedMemory(), BETWEEN_HOSTS, Gloo())
CHOICES = ("auto", *(backend.name for backend in BACKENDS))
"""Of --comm."""


@dataclass(frozen=True, slots=True)
class CommChoice:
    """`name`: of the backend. `reason`: why not a faster one."""

    name: str
    groups: tuple[Group, ...]
    reason: str = ""
    mailboxes: Mailboxes = NO_MAILBOXES
    """Between pipeline stages."""
    debug: bool = False
    """Ranks compare every collective's shapes before it runs."""

    def __str__(self) -> str:
        if self.name == SINGLE_RANK.name:
            return "none, a single rank"
        text = f"{self.name} over {counted(len(self.groups), 'group')}"
        text += ", shapes compared" if self.debug else ""
        return f"{text} ({self.reason})" if self.reason else text


def backend_named(name: str, backends: Sequence[Backend] = BACKENDS) -> Backend:
    """ConfigError: an unknown name."""
    for backend in (SINGLE_RANK, *backends):
        if backend.name == name:
            return backend
    legal = ("auto", *(backend.name for backend in backends))
    raise ConfigError(f"comm {name}: legal: {', '.join(legal)}", field="comm", value=name, legal=legal)


def choose_backend(
    wanted: str, shards: Shards, device: str = "cpu", *, hosts: int = 1, backends: Sequence[Backend] = BACKENDS
) -> CommChoice:
    """`wanted`, or with `auto` the first backend that can serve these ranks. ConfigError: there is none."""
    world, groups = shards.layout.world, groups_of(shards)
    asked = None if wanted == "auto" else backend_named(wanted, backends)
    if world == 1:
        return CommChoice(SINGLE_RANK.name, groups)
    why_not = {backend.name: backend.why_not(world, hosts, device) for backend in backends}
    legal = tuple(name for name, why in why_not.items() if not why)
    if asked is not None and asked.name in legal:
        return CommChoice(asked.name, groups, "" if asked.name == backends[0].name else "as asked")
    if asked is not None or not legal or (hosts > 1 and BETWEEN_HOSTS.name not in legal):
        refused = "; ".join(f"comm {name}: {why}" for name, why in why_not.items() if why and wanted in ("auto", name))
        message = f"{refused}; legal here: {', '.join(legal)}"
        raise ConfigError(message, field="comm", value=wanted, legal=legal)
    if hosts > 1:  # only these connections prove a secret
        return CommChoice(BETWEEN_HOSTS.name, groups)
    faster = [name for name in list(why_not)[: list(why_not).index(legal[0])] if name != BETWEEN_HOSTS.name]
    return CommChoice(legal[0], groups, "; ".join(f"slower than {name}: {why_not[name]}" for name in faster))
