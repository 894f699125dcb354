"""The control connection to one agent, on host 0."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

from weft.base.errors import PeerError
from weft.compute.comm.distributed.links import keep_alive
from weft.runtime.ipc.channel import MAX_FRAME, Channel
from weft.runtime.ipc.messages import pack, read
from weft.runtime.supervisor.hosts.host_messages import FromAgent, HostReport, ToAgent, from_agent
from weft.runtime.supervisor.hosts.session import HostSession

USER_TIMEOUT_MS = 2000
"""Bytes that the other end has not acknowledged for so long end a control connection."""
_LENGTH = struct.Struct("<I")
MOST_REPORT = 1 << 20
"""Bytes of an agent's frame."""


def set_up_control(sock: socket.socket) -> None:
    """Options of a control connection: it ends when the host or the link is gone. Both of its ends always read, so
    bytes that are not acknowledged are a sign of that, too."""
    keep_alive(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


class ControlLost(PeerError):
    """The control connection has ended; says how."""


class FrameReader:
    """Frames of a socket, as far as they have come: what reads never waits for the rest of one."""

    def __init__(self, sock: socket.socket, most: int = MAX_FRAME) -> None:
        self._sock, self._most, self._bytes = sock, most, bytearray()

    def frames(self) -> list[bytes]:
        """Those that are whole. ControlLost: the connection has ended."""
        try:
            part = self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ControlLost(f"the connection is lost ({error.strerror})") from error
        if not part:
            raise ControlLost("the connection was closed")
        self._bytes += part
        found = []
        while len(self._bytes) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._bytes)
            if size > self._most:
                raise ControlLost(f"a frame of {size} bytes is longer than the largest")
            if len(self._bytes) < _LENGTH.size + size:
                break
            found.append(bytes(self._bytes[_LENGTH.size : _LENGTH.size + size]))
            del self._bytes[: _LENGTH.size + size]
        return found


class AgentControl:
    """One agent's control connection. Messages may be sent from any thread; one thread reads."""

    def __init__(self, sock: socket.socket, node: int, peer: str) -> None:
        set_up_control(sock)
        self.node, self.peer, self.sock = node, peer, sock
        self.reader = FrameReader(sock, MOST_REPORT)
        self.report: HostReport | None = None
        self._channel = Channel(sock)
        self._sending = threading.Lock()
        self._gone = threading.Event()
        self._why = ""
        self._sessions: dict[int, HostSession] = {}
        self._asked = threading.Semaphore(0)

    @property
    def words(self) -> str:
        """As of `AgentOfSession`."""
        name = self.report.resources.name if self.report is not None else self.peer
        return f"host {self.node} ({name}, {self.peer})"

    def lost(self, wait_s: float = 0.0) -> str:
        """As of `AgentOfSession`."""
        self._gone.wait(wait_s)
        return self._why

    def forget(self, number: int) -> None:
        """As of `AgentOfSession`."""
        self._sessions.pop(number, None)

    def remember(self, session: HostSession) -> None:
        """States that come for it are its."""
        self._sessions[session.number] = session

    def say(self, message: ToAgent) -> None:
        """PeerError, TimeoutError: the agent is gone."""
        with self._sending:
            self._channel.send(pack(message), 5.0)

    def read(self) -> list[FromAgent]:
        """What has come. PeerError: the connection has ended, or what came is no message."""
        return [read(from_agent, frame, self.words) for frame in self.reader.frames()]

    def take(self, number: int, states: object) -> None:
        """States of the ranks of a session."""
        session = self._sessions.get(number)
        if session is not None and isinstance(states, list):
            with suppress(ValueError):  # the page was closed meanwhile
                session.heard(states)
        self._asked.release()

    def await_states(self, wait_s: float) -> None:
        """Until states have come that were asked for before."""
        while self._asked.acquire(blocking=False):
            continue
        self._asked.acquire(timeout=wait_s)

    def end(self, why: str) -> None:
        """The host is lost: every session of it ends."""
        self._why = self._why or f"{self.words} is lost: {why}"
        self._gone.set()
        for session in list(self._sessions.values()):
            session.hang_up()
        self._channel.shut()
        self._channel.close()
