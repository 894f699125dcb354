"""How connections between hosts prove that they know a secret, before anything else of them is read. No torch.

    acceptor -> connector   MAGIC, nonce
    connector -> acceptor   start, from, to, own nonce, HMAC-SHA256(token, "connect" + nonce + these)
    acceptor -> connector   ACCEPTED, HMAC-SHA256(token, "accept" + nonce + these); or REFUSED and a reason

The connector proves first: an unknown process learns nothing that depends on the secret.
"""

from __future__ import annotations

import hmac
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from weft.base.errors import PeerError
from weft.base.log import get_logger

TOKEN_BYTES = 32
MOST_UNPROVEN, MOST_OF_ADDRESS = 64, 8
"""Connections that have not proven themselves, in all and of one address: the oldest goes when there are more."""
PROOF_S = 5.0
"""Seconds that a connection may take to prove itself."""
_SAID_AGAIN_S = 60.0
"""Seconds between two log lines about refused proofs of one address."""
_MAGIC = b"WEFTLNK2"
_HELLO = struct.Struct("<QII16s")
_NONCE, _PROOF = 16, 32
_GREETING = len(_MAGIC) + _NONCE
_ACCEPTED, _REFUSED = b"\1", b"\0"
_WRONG_PROOF, _NOT_WANTED = b"\1", b"\2"

_log = get_logger(__name__)
Said = tuple[int, int, int]
"""Number of the start, sender, receiver."""


@dataclass(frozen=True, slots=True)
class LinkToken:
    """Number of a start, and a secret of TOKEN_BYTES bytes that no other start has."""

    number: int
    token: bytes

    def proof(self, role: bytes, nonce: bytes, hello: bytes) -> bytes:
        """Digest that only a rank of this start can make."""
        return hmac.digest(self.token, role + nonce + hello, "sha256")


class UnprovenPeerError(PeerError):
    """The two ends do not know the same secret."""


def introduce(sock: socket.socket, rank: int, peer: int, start: LinkToken) -> None:
    """The connector's side. UnprovenPeerError: the secrets differ. PeerError: the acceptor refuses."""
    greeting = _receive(sock, _GREETING)
    if not greeting.startswith(_MAGIC):
        raise PeerError("what listens there speaks another protocol, or is another version of weft")
    nonce, hello = greeting[len(_MAGIC) :], _HELLO.pack(start.number, rank, peer, os.urandom(_NONCE))
    sock.sendall(hello + start.proof(b"connect", nonce, hello))
    if _receive(sock, 1) != _ACCEPTED:
        if _receive(sock, 1) == _WRONG_PROOF:
            raise UnprovenPeerError("the peer does not know this start's token")
        raise PeerError("the connection was refused by the peer")
    if not hmac.compare_digest(_receive(sock, _PROOF), start.proof(b"accept", nonce, hello)):
        raise UnprovenPeerError("the peer does not know this start's token")


def _receive(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = sock.recv(size - len(found))
        if not part:
            raise PeerError("the connection was refused by the peer")
        found += part
    return found


@dataclass(slots=True)
class _Unproven:
    address: str
    since: float
    nonce: bytes
    read: bytes = b""


class UnprovenConnections:
    """Connections of a listener until they have proven themselves. `wanted`: whether one that says this is.

    The listener must not block; `selector` gets the sockets. Used by one thread.
    """

    def __init__(
        self,
        listener: socket.socket,
        start: LinkToken,
        selector: selectors.BaseSelector,
        wanted: Callable[[int, int, int], bool],
    ) -> None:
        self._listener, self._start, self._selector, self._wanted = listener, start, selector, wanted
        self._all: dict[socket.socket, _Unproven] = {}
        self._said_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, sock: object) -> bool:
        return sock in self._all

    def accept(self) -> None:
        """Takes a connection and greets it; the oldest goes where there are too many."""
        with suppress(OSError):  # the peer has gone again
            sock, (address, *_) = self._listener.accept()
            sock.setblocking(False)
            one = _Unproven(str(address), time.monotonic(), os.urandom(_NONCE))
            self._all[sock] = one
            self._selector.register(sock, selectors.EVENT_READ)
            same = [other for other, each in self._all.items() if each.address == one.address]
            for other in (*same[:-MOST_OF_ADDRESS], *list(self._all)[:-MOST_UNPROVEN]):
                self._drop(other)
            if sock in self._all:
                sock.sendall(_MAGIC + one.nonce)

    def read(self, sock: socket.socket) -> Said | None:
        """Reads what there is; what the connection says, once it has proven itself. It is then the caller's."""
        if (one := self._all.get(sock)) is None:
            return None  # `accept` dropped it after the selector had reported it
        try:
            said = self._advance(sock, one)
        except (OSError, PeerError):
            self._drop(sock)
            return None
        if said is not None:
            del self._all[sock]
        return said

    def _advance(self, sock: socket.socket, one: _Unproven) -> Said | None:
        size = _HELLO.size + _PROOF
        part = sock.recv(size - len(one.read))
        if not part:
            raise PeerError("closed")
        one.read += part
        if len(one.read) < size:
            return None
        hello, proof = one.read[: _HELLO.size], one.read[_HELLO.size :]
        if not hmac.compare_digest(proof, self._start.proof(b"connect", one.nonce, hello)):
            self._say_refused(one.address)
            sock.sendall(_REFUSED + _WRONG_PROOF)
            raise PeerError("wrong proof")
        number, sender, receiver, _ = _HELLO.unpack(hello)
        if not self._wanted(number, sender, receiver):
            sock.sendall(_REFUSED + _NOT_WANTED)
            raise PeerError("not a connection that is wanted")
        sock.sendall(_ACCEPTED + self._start.proof(b"accept", one.nonce, hello))
        return number, sender, receiver

    def _say_refused(self, address: str) -> None:
        now = time.monotonic()
        if now - self._said_at.get(address, -_SAID_AGAIN_S) >= _SAID_AGAIN_S:
            self._said_at = {each: at for each, at in self._said_at.items() if now - at < _SAID_AGAIN_S} | {
                address: now
            }
            _log.error("a connection from %s was refused: it does not know the secret of these hosts", address)

    def drop_late(self) -> None:
        """Closes those that took longer than PROOF_S."""
        now = time.monotonic()
        for sock in [sock for sock, one in self._all.items() if now - one.since > PROOF_S]:
            self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        if self._all.pop(sock, None) is not None:
            self._selector.unregister(sock)
            sock.close()

    def close(self) -> None:
        """Closes all that have not proven themselves."""
        for sock in list(self._all):
            self._drop(sock)
