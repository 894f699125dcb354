"""Agent: the process of a host beyond host 0. Finds host 0, proves the secret, and starts ranks when it is asked to.

It outlives its ranks, and host 0: when that is lost its ranks end, and it looks for a new one for `join_limit_s`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from weft.base.errors import ConfigError, PeerError
from weft.base.log import get_logger
from weft.base.machine.own_addresses import Endpoint, address_on, interface_of
from weft.base.settings import EngineConfig
from weft.compute.comm.backend import HostSite
from weft.compute.comm.distributed.handshake import PROOF_S, LinkToken, UnprovenPeerError, introduce
from weft.compute.comm.distributed.links import set_up_link
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.runtime.agent.answering import Answering
from weft.runtime.agent.ranks_session import RanksSession
from weft.runtime.agent.waker import Waker
from weft.runtime.ipc.channel import Channel
from weft.runtime.launch_plan.hosts import HostsConfig, resources_here
from weft.runtime.supervisor.hosts.control import FrameReader, set_up_control
from weft.runtime.supervisor.hosts.host_messages import (
    AGENT,
    HEAD,
    SESSION,
    AgentRefusal,
    AskStates,
    BeginRanks,
    Farewell,
    FromAgent,
    HostReport,
    RankStates,
    ToAgent,
    Welcome,
    packed,
    read,
    to_agent,
)
from weft.runtime.supervisor.hosts.meeting_point import token_of
from weft.runtime.supervisor.processes import Spawner

_log = get_logger(__name__)
RETRY_S = 0.5
STATES_S = 0.2
"""How often the states of ranks are sent while they change, or frames pass."""
TAKEN_S = 6.0
"""How long to ask again where another agent has this one's number: host 0 may not have seen its end yet."""


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What an agent is started with. `settings`: what must be the same on every host."""

    config: HostsConfig
    layout: Layout
    engine: EngineConfig
    checkpoint: Checkpoint
    settings: Mapping[str, str]
    join_limit_s: float


class Agent:
    """`run` returns when host 0 ends on purpose. ConfigError: host 0 refuses this host. PeerError: it cannot be reached
    for `join_limit_s`."""

    def __init__(self, setup: AgentSetup, spawner: Spawner, say: Callable[[str], None]) -> None:
        self._setup, self._spawner, self._say = setup, spawner, say
        assert setup.config.node_rank is not None
        self._node = setup.config.node_rank
        self._key = setup.config.secret()
        self._start = LinkToken(0, self._key)
        self._sessions: dict[int, RanksSession] = {}
        self._sent: dict[int, object] = {}
        self._channel: Channel | None = None
        self._waker = Waker()
        self._joined = False

    def state(self) -> dict[str, object]:
        """For probes: whether host 0 is there, and the pid of each rank that runs."""
        ranks = {rank: pid for session in list(self._sessions.values()) for rank, pid in session.running().items()}
        status = "joined" if self._joined else "waiting for host 0"
        return {"status": status, "host": self._node, "host_0": str(self._setup.config.endpoint), "ranks": ranks}

    def run(self) -> None:
        """Until host 0 ends on purpose."""
        path = self._setup.config.agent_socket
        with contextlib.nullcontext() if path is None else closing(Answering(path, self.state)):
            self._run()

    def _run(self) -> None:
        try:
            while not self._serve(self._join()):
                self._say(f"host 0 is lost; its ranks are ended, waiting for it at {self._setup.config.endpoint}")
        finally:
            self._end_ranks()
            self._waker.close()

    # -- finding host 0

    def _join(self) -> socket.socket:
        """A control connection on which this host was welcomed."""
        deadline, taken_until = time.monotonic() + self._setup.join_limit_s, 0.0
        endpoint, reason, waiting = self._setup.config.endpoint, "", False
        while time.monotonic() < deadline:
            try:
                sock = self._connect(AGENT, 0)
            except (OSError, PeerError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                if isinstance(error, UnprovenPeerError):
                    raise ConfigError(
                        f"what listens at {endpoint} does not prove this host's secret: the secrets of host 0 and host"
                        f" {self._node} are not the same",
                        field="dist_secret_file",
                    ) from error
                if not waiting:
                    self._say(f"host 0 is not at {endpoint} yet ({reason}); trying every {RETRY_S:g} s")
                    waiting = True
                time.sleep(RETRY_S)
                continue
            refusal = self._introduce(sock)
            if refusal is None:
                return sock
            sock.close()
            taken_until = taken_until or time.monotonic() + TAKEN_S
            if refusal.message and (not refusal.again or time.monotonic() > taken_until):
                raise ConfigError(refusal.message, field="node_rank", value=self._node)
            reason = refusal.message or "the connection was closed"
            time.sleep(RETRY_S)
        raise PeerError(
            f"host 0 is not at {endpoint} after {self._setup.join_limit_s:g} s (--join-limit): {reason or 'no answer'}"
        )

    def _connect(self, role: int, number: int) -> socket.socket:
        """A proven connection to host 0, its name resolved anew. OSError, PeerError."""
        at = self._setup.config.endpoint.resolved()
        with ClosedOnError(socket.socket(_family(at), socket.SOCK_STREAM)) as sock:
            sock.settimeout(PROOF_S)
            if (interface := self._setup.config.dist_interface) is not None:
                sock.bind((address_on(interface, sock.family), 0))
            sock.connect((at.host, at.port))
            introduce(sock, self._node, HEAD + role, LinkToken(number, self._key))
            sock.settimeout(None)
            return sock

    def _introduce(self, sock: socket.socket) -> AgentRefusal | None:
        """Says what this host has; None: it is welcome."""
        set_up_control(sock)
        setup, address = self._setup, str(sock.getsockname()[0])
        resources = resources_here(setup.layout, setup.engine, platform.node(), address, interface_of(address))
        self._channel = Channel(sock)
        try:
            self._send(HostReport(self._node, resources, dict(setup.settings), address, os.getpid()))
            answer = read(to_agent, self._channel.receive(setup.join_limit_s), "host 0")
        except (PeerError, TimeoutError):
            return AgentRefusal("", again=True)
        if isinstance(answer, AgentRefusal):
            return answer
        if not isinstance(answer, Welcome):
            raise PeerError(f"host 0 sent {type(answer).__name__} to a host that it has not welcomed")
        self._say(f"host {self._node} is with host 0 at {setup.config.endpoint}, from {resources}")
        return None

    # -- while host 0 is there

    def _serve(self, sock: socket.socket) -> bool:
        """Until the connection ends; True: host 0 ends on purpose."""
        reader, poll = FrameReader(sock), select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._waker, select.POLLIN)
        self._sent.clear()
        changing, self._joined = False, True
        try:
            while True:
                poll.poll(STATES_S * 1000 if changing or not self._waker.rest() else None)
                self._waker.wake()
                for frame in reader.frames():
                    if self._obey(read(to_agent, frame, "host 0"), sock):
                        return True
                changing = self._send_states(every=False)
        except (PeerError, TimeoutError) as error:
            _log.error("host 0: %s", error)
            return False
        finally:
            self._joined = False
            self._end_ranks()
            sock.close()

    def _obey(self, message: ToAgent, sock: socket.socket) -> bool:
        if isinstance(message, Farewell):
            self._say("host 0 has ended")
            return True
        if isinstance(message, AskStates):
            self._send_states(every=True)
        elif isinstance(message, BeginRanks):
            try:
                self._begin(message, str(sock.getsockname()[0]))
            except OSError as error:  # host 0 sees that no session comes
                _log.error("host 0: no session: %s", error)
        return False

    def _begin(self, message: BeginRanks, address: str) -> None:
        """Opens a session; the ranks of an older one of the same replica have ended before."""
        world = message.world
        for number, session in list(self._sessions.items()):
            if session.first_rank == world.first_rank or not session.alive:
                session.end()
                del self._sessions[number]
                self._sent.pop(number, None)
        site = HostSite(self._node, world.host_of, address, self._setup.config.ports())
        token = token_of(self._key, message.salt)
        connection = self._connect(SESSION, message.session)
        set_up_link(connection)
        table = self._setup.checkpoint.table()
        session = RanksSession(Channel(connection), message, site, table, token, self._spawner, self._waker)
        self._sessions[message.session] = session
        session.start()

    def _send_states(self, *, every: bool) -> bool:
        """Of each session whose ranks' states have changed, or of all; whether any have."""
        changed = False
        for number, session in list(self._sessions.items()):
            states = session.states()
            content = [state.content for state in states]
            changed |= content != self._sent.get(number)
            if every or content != self._sent.get(number):
                self._sent[number] = content
                self._send(RankStates(number, states))
        if every and not self._sessions:
            self._send(RankStates(0, []))
        return changed

    def _send(self, message: FromAgent) -> None:
        assert self._channel is not None
        self._channel.send(packed(message), 5.0)

    def _end_ranks(self) -> None:
        for session in self._sessions.values():
            session.hang_up()
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()


class ClosedOnError:
    """Closes a socket where the block raises, and leaves it open otherwise."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __enter__(self) -> socket.socket:
        return self._sock

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(OSError):
                self._sock.close()


def _family(at: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in at.host else socket.AF_INET
