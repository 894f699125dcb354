"""What host 0 and the agent of another host say to each other, in msgpack over two kinds of connections.

control: one for each agent, which both ends always read. Its end means that the host is lost.
session: one for each set of ranks on that host. Frames to its ranks and from them pass through it as they are, each
after the number of its rank.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from weft.base.errors import PeerError
from weft.base.machine.cores import CoreShare
from weft.compute.comm.shm.region import RankRecord
from weft.runtime.ipc.messages import Failed, WorldSetup
from weft.runtime.ipc.status import AGE_AT
from weft.runtime.launch_plan.hosts import HostResources

AGENT, SESSION = 1, 2
"""What a connection is for, as the one that opens it says."""
HEAD = 0
"""The receiver of both."""
COMMAND, EACH = -2, -1
"""In place of a rank before a session's frame: a record of this file; frames for several ranks of the host."""
_TO = struct.Struct("<i")


class HostReport(msgspec.Struct, frozen=True, tag="report"):
    """An agent's first record. `settings`: what must be the same on every host, in words; `own_address`: of its end of
    the connection."""

    node_rank: int
    resources: HostResources
    settings: dict[str, str]
    own_address: str
    pid: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The agent is taken."""


class AgentRefusal(msgspec.Struct, frozen=True, tag="refusal"):
    """The agent is not taken; `again`: it may be in a moment."""

    message: str
    again: bool = False


class BeginRanks(msgspec.Struct, frozen=True, tag="begin"):
    """Open a session with this number and start the ranks of `ranks` for it. `salt` and the secret give the token of
    connections between ranks."""

    session: int
    salt: bytes
    world: WorldSetup
    ranks: dict[int, CoreShare]


class AskStates(msgspec.Struct, frozen=True, tag="ask"):
    """Answer with `RankStates` at once."""


class Farewell(msgspec.Struct, frozen=True, tag="farewell"):
    """Host 0 ends on purpose, and so may the agent."""


class RankState(msgspec.Struct, frozen=True):
    """Of one rank: its record of the status page, in which the time since when it is in a collective is an age; the
    collective that it was last in, where its backend keeps that."""

    rank: int
    page: bytes
    stopped: bool
    record: RankRecord | None
    cpu_s: float = 0.0

    @property
    def content(self) -> object:
        """All but ages: equal while nothing happens."""
        record = self.record
        return self.page[:AGE_AT], self.page[AGE_AT + 8 :], self.stopped, record and (record.call, record.inside)


class RankStates(msgspec.Struct, frozen=True, tag="states"):
    """Of the ranks of one session."""

    session: int
    ranks: list[RankState]


ToAgent = Welcome | AgentRefusal | BeginRanks | AskStates | Farewell
FromAgent = HostReport | RankStates


class MeetAt(msgspec.Struct, frozen=True, tag="meet"):
    """Where all ranks listen; setups follow from it."""

    addresses: dict[int, tuple[str, int]]


class MarkDead(msgspec.Struct, frozen=True, tag="dead"):
    """These ranks are gone: ends the waits of others for them."""

    ranks: list[int]


class AllMet(msgspec.Struct, frozen=True, tag="met"):
    """Every rank has connected."""


class Spawned(msgspec.Struct, frozen=True, tag="spawned"):
    """The host's ranks have processes, and listen at `addresses`."""

    pids: dict[int, int]
    addresses: dict[int, tuple[str, int]]


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A rank's process has ended: `code` as of `subprocess`; the last states of all ranks of the session."""

    rank: int
    code: int
    states: list[RankState]
    out_of_memory: bool = False


class SessionFailed(msgspec.Struct, frozen=True, tag="failed-session"):
    """The agent cannot start these ranks."""

    failure: Failed


ToSession = MeetAt | MarkDead | AllMet
FromSession = Spawned | Ended | SessionFailed

T = TypeVar("T")
Parts = list[tuple[list[int], bytes]]
"""Ranks, and the frame that each of them gets."""
_encoder = msgspec.msgpack.Encoder()
to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
to_session: msgspec.msgpack.Decoder[ToSession] = msgspec.msgpack.Decoder(ToSession)
from_session: msgspec.msgpack.Decoder[FromSession] = msgspec.msgpack.Decoder(FromSession)

_parts: msgspec.msgpack.Decoder[Parts] = msgspec.msgpack.Decoder(Parts)


def packed(message: ToAgent | FromAgent) -> bytes:
    """One frame of a control connection."""
    return _encoder.encode(message)


def command(message: ToSession | FromSession) -> bytes:
    """One frame of a session, for its other end itself."""
    return addressed(COMMAND, _encoder.encode(message))


def addressed(to: int, frame: bytes) -> bytes:
    """A frame of a session: for a rank or of it, or with another receiver."""
    return _TO.pack(to) + frame


def of_ranks(ranks_of: Mapping[bytes, list[int]]) -> bytes:
    """A frame of a session that has a frame for several ranks: every frame once, with its ranks."""
    return addressed(EACH, _encoder.encode([(ranks, frame) for frame, ranks in ranks_of.items()]))


def parts_of(rest: memoryview) -> Parts:
    """What `of_ranks` packed. PeerError: it is nothing such."""
    return read(_parts, rest, "host 0")


def parted(frame: bytes) -> tuple[int, memoryview]:
    """The rank, `EACH` or `COMMAND`, and what follows. PeerError: it is no frame of a session."""
    if len(frame) < _TO.size:
        raise PeerError("a frame of a session has no receiver")
    return _TO.unpack_from(frame)[0], memoryview(frame)[_TO.size :]


def read(decoder: msgspec.msgpack.Decoder[T], frame: bytes | memoryview, whose: str) -> T:
    """One record. PeerError: it is none of these."""
    try:
        return decoder.decode(frame)
    except msgspec.DecodeError as error:
        raise PeerError(f"{whose} sent a frame that is no message: {error}") from error
