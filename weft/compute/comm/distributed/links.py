"""TCP connections between the ranks of a world that is on several hosts: which may connect, and their sockets.

Each rank listens on one address of its own host and connects to every rank below it. Both ends prove that they know the
token of this start before any other byte is read, so an unknown process, or a rank of an earlier start, is
refused. No torch.

    connector -> acceptor   MAGIC, start, from, to, nonce
    acceptor -> connector   nonce, HMAC-SHA256(token, "accept" + hello + nonce)
    connector -> acceptor   HMAC-SHA256(token, "connect" + hello + nonce)
    acceptor -> connector   one byte

TCP keepalive finds a host that is gone. There is no TCP_USER_TIMEOUT: it would also end a connection whose living peer
reads late.
"""

from __future__ import annotations

import hmac
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from weft.base.errors import ConfigError, PeerError
from weft.base.plural import numbered
from weft.compute.comm.backend import Address

TOKEN_BYTES = 32
MOST_UNPROVEN = 64
"""Connections that have not proven themselves; further ones wait in the system's queue."""
PROOF_S = 5.0
"""How long a connection may take to prove itself."""
_MAGIC = b"WEFTLNK1"
_HELLO = struct.Struct("<8sQII16s")
_NONCE = 16
_PROOF = 32
_RETRY_S = 0.1


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket on one address of this host; port 0: any. OSError: not an address of this host, or in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:  # connections of a process that has ended may still linger at it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(256)
    except OSError:
        sock.close()
        raise
    return sock


def listen_in(address: str, ports: tuple[int, int] | None) -> socket.socket:
    """A listening socket on `address`, at a free port of `ports`, both ends included. ConfigError: none is free."""
    if ports is None:
        return listen(address)
    for port in range(ports[0], ports[1] + 1):
        with suppress(OSError):
            return listen(address, port)
    message = f"dist_ports {ports[0]}-{ports[1]}: no port of {address} is free; each rank of this host needs one"
    raise ConfigError(message, field="dist_ports", value=f"{ports[0]}-{ports[1]}")


@dataclass(frozen=True, slots=True)
class LinkToken:
    """What ranks of one start have in common: its number, and a secret of TOKEN_BYTES bytes that no other start has."""

    number: int
    token: bytes

    def proof(self, role: bytes, hello: bytes, nonce: bytes) -> bytes:
        """What only a rank of this start can say."""
        return hmac.digest(self.token, role + hello + nonce, "sha256")


def connect_all(
    rank: int,
    addresses: Mapping[int, Address],
    listener: socket.socket,
    start: LinkToken,
    limit_s: float,
    alive: Callable[[], None] = lambda: None,
) -> dict[int, socket.socket]:
    """A proven connection to each rank of `addresses`, which holds this rank's peers, from the address that `listener`
    is bound to. `alive` is called while nothing happens and may raise. PeerError: names the ranks that are missing at
    the limit."""
    deadline, own = time.monotonic() + limit_s, str(listener.getsockname()[0])
    found: dict[int, socket.socket] = {}
    try:
        for peer in sorted(peer for peer in addresses if peer < rank):
            found[peer] = _connect(rank, own, peer, addresses[peer], start, deadline, alive)
        missing = {peer for peer in addresses if peer > rank}
        found |= _Acceptor(rank, listener, start).accept(missing, deadline, alive)
    except BaseException:
        for sock in found.values():
            sock.close()
        raise
    for sock in found.values():
        set_up_link(sock)
    return found


def _connect(
    rank: int, own: str, peer: int, address: Address, start: LinkToken, deadline: float, alive: Callable[[], None]
) -> socket.socket:
    reason, refused = "no answer", ""
    while (left := deadline - time.monotonic()) > 0:
        alive()
        try:
            sock = socket.create_connection(address, min(left, PROOF_S), (own, 0))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            try:
                introduce(sock, rank, peer, start)
            except OSError as error:
                sock.close()
                reason = str(error)
            except PeerError as error:
                sock.close()
                refused = str(error)
            else:
                return sock
        time.sleep(min(_RETRY_S, max(left, 0.0)))
    raise PeerError(f"rank {rank} cannot reach rank {peer} at {in_words(address)}: {refused or reason}")


class UnprovenPeerError(PeerError):
    """What listens there does not know the secret."""


def introduce(sock: socket.socket, rank: int, peer: int, start: LinkToken) -> None:
    """The connector's side. UnprovenPeerError: what listens does not know the secret. PeerError: it refuses."""
    hello = _HELLO.pack(_MAGIC, start.number, rank, peer, os.urandom(_NONCE))
    sock.sendall(hello)
    answer = _receive(sock, _NONCE + _PROOF)
    nonce, proof = answer[:_NONCE], answer[_NONCE:]
    if not hmac.compare_digest(proof, start.proof(b"accept", hello, nonce)):
        raise UnprovenPeerError("the peer does not know this start's token")
    sock.sendall(start.proof(b"connect", hello, nonce))
    _receive(sock, 1)


def _receive(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = sock.recv(size - len(found))
        if not part:
            raise PeerError("the connection was refused by the peer")
        found += part
    return found


class Unproven:
    """A connection that has not proven itself, from the acceptor's side; `hello` is what it says that it is."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.since = sock, time.monotonic()
        self.hello, self.nonce, self.read = b"", b"", b""

    def said(self) -> tuple[int, int, int]:
        """LinkToken, sender and receiver, as the hello has them."""
        _, number, sender, receiver, _ = _HELLO.unpack(self.hello)
        return number, sender, receiver

    def advance(self, start: LinkToken, wanted: Callable[[int, int, int], bool]) -> bool:
        """Reads what is there; whether it has proven itself. `wanted`: whether a connection with this start, sender and
        receiver is. PeerError, OSError: it cannot."""
        size = _PROOF if self.hello else _HELLO.size
        part = self.sock.recv(size - len(self.read))
        if not part:
            raise PeerError("closed")
        self.read += part
        if len(self.read) < size:
            return False
        read, self.read = self.read, b""
        if not self.hello:
            self.hello, self.nonce = read, os.urandom(_NONCE)
            if read[: len(_MAGIC)] != _MAGIC or not wanted(*self.said()):
                raise PeerError("not a connection that is wanted")
            self.sock.sendall(self.nonce + start.proof(b"accept", read, self.nonce))
            return False
        if not hmac.compare_digest(read, start.proof(b"connect", self.hello, self.nonce)):
            raise PeerError("wrong token")
        if not wanted(*self.said()):
            raise PeerError("connected twice")
        self.sock.sendall(b"\1")
        return True


class _Acceptor:
    """Takes the connections of ranks above `rank`; one that is not theirs is closed without an answer."""

    def __init__(self, rank: int, listener: socket.socket, start: LinkToken) -> None:
        self._rank, self._listener, self._start = rank, listener, start
        self._unproven: dict[socket.socket, Unproven] = {}

    def accept(self, missing: Collection[int], deadline: float, alive: Callable[[], None]) -> dict[int, socket.socket]:
        """A connection of each of `missing`."""
        found: dict[int, socket.socket] = {}
        wanted = set(missing)
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            try:
                while wanted:
                    if time.monotonic() >= deadline:
                        raise PeerError(f"{numbered(sorted(wanted))} did not connect to rank {self._rank}")
                    alive()
                    for key, _ in selector.select(0.1):
                        if key.fileobj is self._listener:
                            self._take(selector)
                        else:
                            assert isinstance(key.fileobj, socket.socket)
                            self._read(key.fileobj, selector, wanted, found)
                    self._drop_late(selector)
            except BaseException:
                for sock in found.values():
                    sock.close()
                raise
            finally:
                for sock in self._unproven:
                    sock.close()
                self._unproven.clear()
        return found

    def _take(self, selector: selectors.BaseSelector) -> None:
        with suppress(OSError):  # the peer has gone again
            sock, _ = self._listener.accept()
            if len(self._unproven) >= MOST_UNPROVEN:
                sock.close()
                return
            sock.setblocking(False)
            self._unproven[sock] = Unproven(sock)
            selector.register(sock, selectors.EVENT_READ)

    def _read(
        self, sock: socket.socket, selector: selectors.BaseSelector, wanted: set[int], found: dict[int, socket.socket]
    ) -> None:
        one = self._unproven[sock]
        try:
            peer = self._advance(one, wanted)
        except (OSError, PeerError):
            self._drop(sock, selector)
            return
        if peer is not None:
            selector.unregister(sock)
            del self._unproven[sock]
            sock.setblocking(True)
            found[peer] = sock
            wanted.discard(peer)

    def _advance(self, one: Unproven, wanted: set[int]) -> int | None:
        """Reads what is there; the rank, once it has proven itself. PeerError, OSError: it cannot."""

        def is_wanted(number: int, sender: int, receiver: int) -> bool:
            return (number, receiver) == (self._start.number, self._rank) and sender in wanted

        return one.said()[1] if one.advance(self._start, is_wanted) else None

    def _drop_late(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for sock in [sock for sock, one in self._unproven.items() if now - one.since > PROOF_S]:
            self._drop(sock, selector)

    def _drop(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        selector.unregister(sock)
        del self._unproven[sock]
        sock.close()


def set_up_link(sock: socket.socket) -> None:
    """Options of a connection between ranks, or of a session: not blocking, and those of `keep_alive`."""
    sock.setblocking(False)
    keep_alive(sock)


def keep_alive(sock: socket.socket) -> None:
    """Sends small messages at once (TCP_NODELAY), and ends an idle connection seconds after its peer's host is lost."""
    for level, name, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    ):
        sock.setsockopt(level, name, value)


def in_words(address: Address) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
