"""AgentPool: host 0's side of all other hosts. A thread takes the connections of their agents and always reads them."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from weft.base.errors import HostLostError, HostMissingError, PeerError, WeftError
from weft.base.log import get_logger
from weft.base.machine.cores import CoreShare
from weft.base.machine.own_addresses import address_on, interface_of
from weft.compute.comm.distributed.handshake import LinkToken, UnprovenConnections
from weft.compute.comm.distributed.links import set_up_link
from weft.runtime.ipc.channel import Channel
from weft.runtime.ipc.messages import WorldSetup
from weft.runtime.ipc.status import StatusPage
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig
from weft.runtime.supervisor.hosts.admission import refusal_of
from weft.runtime.supervisor.hosts.control import AgentControl, ControlLost
from weft.runtime.supervisor.hosts.host_launcher import HostLauncher
from weft.runtime.supervisor.hosts.host_messages import (
    AGENT,
    SESSION,
    AgentRefusal,
    AskStates,
    BeginRanks,
    Farewell,
    HostReport,
    RankStates,
    Welcome,
)
from weft.runtime.supervisor.hosts.meeting_point import listen_for_agents
from weft.runtime.supervisor.hosts.session import HostSession

_log = get_logger(__name__)
GiveUp = Callable[[], WeftError | None]
SESSION_S = 10.0
"""How long an agent may take to open a session that it was asked for."""
STATES_S = 0.5
"""How long to wait for states that agents were asked for."""


class AgentPool:
    """Listens for the agents of hosts 1 to `count` - 1, which must have the `settings` of this host.

    ConfigError: the address is not this host's, or its port is taken.
    """

    def __init__(
        self,
        config: HostsConfig,
        count: int,
        settings: Mapping[str, str],
        say: Callable[[str], None] = lambda line: None,
        launcher: HostLauncher | None = None,
    ) -> None:
        self.count, self._settings, self._say, self._launcher = count, dict(settings), say, launcher
        self.key = config.secret()
        self._listener = listen_for_agents(config)
        self.address = self._listener.getsockname()[0]
        if config.dist_interface is not None:
            self.address = address_on(config.dist_interface, self._listener.family)
        self.interface = interface_of(self.address)
        self.ports = config.ports()
        self._agents: dict[int, AgentControl] = {}
        self._joining: dict[socket.socket, AgentControl] = {}
        self._sessions: dict[int, socket.socket | None] = {}
        self._refused: dict[int, str] = {}
        self._lost: dict[int, tuple[str, float]] = {}
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._listener.setblocking(False)
        self._unproven = UnprovenConnections(self._listener, LinkToken(0, self.key), self._selector, self._wanted)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    # -- for the threads that start ranks

    def wait(self, nodes: Iterable[int], limit_s: float, give_up: GiveUp = lambda: None) -> None:
        """Until the agents of these hosts are here. HostLostError: names those that are not, after `limit_s`. An error
        of `give_up` ends the wait."""
        wanted, deadline = {*nodes} - {0}, time.monotonic() + limit_s
        with self._changed:
            while missing := wanted - self._agents.keys():
                if (error := give_up()) is not None:
                    raise error
                if time.monotonic() >= deadline:
                    lines = [self._lacking(node) for node in sorted(missing)]
                    raise HostMissingError(f"{'; '.join(lines)}; waited {limit_s:g} s (--join-limit)")
                self._changed.wait(min(0.2, max(0.0, deadline - time.monotonic())))

    def _lacking(self, node: int) -> str:
        reason = f" (one that came was refused: {self._refused[node]})" if node in self._refused else ""
        if node in self._lost:
            why, since = self._lost[node]
            return f"{why}, {time.monotonic() - since:.0f} s ago, and has not come back{reason}"
        return f"host {node} has not come{reason}"

    def lacking(self, nodes: Iterable[int]) -> str:
        """Which of these hosts are not here, in words; empty: all are."""
        with self._changed:
            missing = sorted({*nodes} - {0} - self._agents.keys())
            return "; ".join(self._lacking(node) for node in missing)

    def resources(self, node: int) -> HostResources:
        """What the host that is here gives its ranks. HostLostError: it is not here."""
        report = self._agent(node).report
        assert report is not None
        return report.resources

    def begin(
        self, node: int, world: WorldSetup, ranks: dict[int, CoreShare], salt: bytes, status: StatusPage
    ) -> HostSession:
        """Asks a host to start ranks; its session. HostLostError: it is not here, or is lost meanwhile."""
        agent, number = self._agent(node), int.from_bytes(os.urandom(7))
        with self._changed:
            self._sessions[number] = None
        deadline = time.monotonic() + SESSION_S
        try:
            agent.say(BeginRanks(number, salt, world, ranks))
        except (PeerError, TimeoutError) as error:
            raise HostLostError(agent.lost(1.0) or f"{agent.words} is lost") from error
        with self._changed:
            while (sock := self._sessions[number]) is None:
                if agent.lost() or time.monotonic() >= deadline:
                    del self._sessions[number]
                    raise HostLostError(agent.lost() or f"{agent.words} opened no session within {SESSION_S:g} s")
                self._changed.wait(0.2)
            del self._sessions[number]
        session = HostSession(agent, number, Channel(sock), status)
        agent.remember(session)
        if agent.lost():  # before it was remembered
            session.hang_up()
        return session

    def _agent(self, node: int) -> AgentControl:
        with self._changed:
            if node not in self._agents:
                raise HostLostError(self._lacking(node))
            return self._agents[node]

    def refresh(self) -> None:
        """Asks all agents for the present state of their ranks; waits for it a moment."""
        with self._changed:
            agents = list(self._agents.values())
        asked = []
        for agent in agents:
            with suppress(PeerError, TimeoutError):
                agent.say(AskStates())
                asked.append(agent)
        for agent in asked:
            agent.await_states(STATES_S)

    def close(self) -> None:
        """Ends on purpose: the agents end, too. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        if self._launcher:
            self._launcher.rest()
        with self._changed:
            agents = list(self._agents.values())
        for agent in agents:
            with suppress(PeerError, TimeoutError):
                agent.say(Farewell())
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for agent in agents:
            agent.end("the server ends")
        self._unproven.close()
        for sock in (self._listener, *self._joining):
            sock.close()
        self._selector.close()
        os.close(self._wake)
        if self._launcher is not None:
            self._launcher.close()

    # -- the thread

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(1.0 if self._unproven or self._joining else None):
                try:
                    if key.fileobj is self._listener:
                        self._unproven.accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._read(key.fileobj)
                except Exception:  # one connection must not end the watch over all hosts
                    _log.exception("unexpected error with a connection of another host")
            self._unproven.drop_late()

    def _read(self, sock: socket.socket) -> None:
        if sock in self._unproven:
            self._prove(sock)
            return
        agent = self._joining.get(sock) or next((one for one in self._agents.values() if one.sock is sock), None)
        if agent is None:
            if sock.fileno() >= 0:  # else it was dropped after the selector had reported it
                self._selector.unregister(sock)
            return
        try:
            for message in agent.read():
                if isinstance(message, HostReport):
                    self._join(agent, message)
                elif isinstance(message, RankStates):
                    agent.take(message.session, message.ranks)
        except PeerError as error:
            if sock in self._joining and not isinstance(error, ControlLost):
                with suppress(PeerError, TimeoutError):
                    agent.say(AgentRefusal("it speaks other messages: the versions of weft are not the same"))
            self._lose(agent, str(error))

    def _prove(self, sock: socket.socket) -> None:
        if (said := self._unproven.read(sock)) is None:
            return
        number, node, role = said
        if role == AGENT:
            self._joining[sock] = AgentControl(sock, node, sock.getpeername()[0])
            return
        self._selector.unregister(sock)
        set_up_link(sock)
        with self._changed:
            self._sessions[number] = sock
            self._changed.notify_all()

    def _wanted(self, number: int, node: int, role: int) -> bool:
        if role == SESSION:
            return number in self._sessions and self._sessions[number] is None
        return role == AGENT and number == 0

    def _join(self, agent: AgentControl, report: HostReport) -> None:
        holder = self._agents.get(agent.node)
        taken_by = "" if holder is None else holder.words
        refusal = refusal_of(report, agent.node, agent.peer, self.count, self._settings, taken_by)
        with suppress(PeerError, TimeoutError):
            agent.say(refusal or Welcome())
        if refusal is not None:
            if not refusal.again:
                self._refused[agent.node] = refusal.message
                _log.error("%s: refused: %s", agent.peer, refusal.message)
            self._selector.unregister(agent.sock)
            self._joining.pop(agent.sock, None)
            agent.end("refused")
            return
        agent.report = report
        self._joining.pop(agent.sock, None)
        with self._changed:
            self._agents[agent.node] = agent
            self._lost.pop(agent.node, None)
            self._refused.pop(agent.node, None)
            self._changed.notify_all()
        self._say(f"{agent.words} is here, pid {report.pid}")

    def _lose(self, agent: AgentControl, why: str) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(agent.sock)
        known = self._joining.pop(agent.sock, None) is None
        agent.end(why)
        if known:
            with self._changed:
                self._agents.pop(agent.node, None)
                self._lost[agent.node] = (agent.lost(), time.monotonic())
                self._changed.notify_all()
            if not self._closing:
                _log.error("%s", agent.lost())
