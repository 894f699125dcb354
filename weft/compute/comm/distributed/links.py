"""TCP connections between the ranks of a world that is on several hosts: which may connect, and their sockets.

Each rank listens on one address of its own host and connects to every rank below it. Both ends prove that they know the
token of this start (`handshake.py`), so an unknown process, or a rank of an earlier start, is refused. No torch.

TCP keepalive finds a host that is gone. There is no TCP_USER_TIMEOUT: it would also end a connection whose living peer
reads late.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from weft.base.errors import ConfigError, PeerError
from weft.base.plural import numbered
from weft.compute.comm.backend import Address
from weft.compute.comm.distributed.handshake import PROOF_S, LinkToken, UnprovenConnections, introduce

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
        found |= _accept(rank, listener, start, missing, deadline, alive)
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
    hint = "" if refused else " (a firewall? --dist-ports FIRST-LAST says which ports to open)"
    raise PeerError(f"rank {rank} cannot reach rank {peer} at {in_words(address)}: {refused or reason}{hint}")


def _accept(
    rank: int,
    listener: socket.socket,
    start: LinkToken,
    missing: Collection[int],
    deadline: float,
    alive: Callable[[], None],
) -> dict[int, socket.socket]:
    """A connection of each of `missing`, which are ranks above `rank`."""
    found: dict[int, socket.socket] = {}
    wanted = set(missing)

    def is_wanted(number: int, sender: int, receiver: int) -> bool:
        return (number, receiver) == (start.number, rank) and sender in wanted

    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        unproven = UnprovenConnections(listener, start, selector, is_wanted)
        try:
            while wanted:
                if time.monotonic() >= deadline:
                    raise PeerError(f"{numbered(sorted(wanted))} did not connect to rank {rank}{_firewall(listener)}")
                alive()
                for key, _ in selector.select(0.1):
                    if key.fileobj is listener:
                        unproven.accept()
                    elif isinstance(key.fileobj, socket.socket) and (said := unproven.read(key.fileobj)) is not None:
                        selector.unregister(key.fileobj)
                        key.fileobj.setblocking(True)
                        found[said[1]] = key.fileobj
                        wanted.discard(said[1])
                unproven.drop_late()
        except BaseException:
            for sock in found.values():
                sock.close()
            raise
        finally:
            unproven.close()
    return found


def _firewall(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f", which listens at {in_words((host, port))} (a firewall? --dist-ports FIRST-LAST says which ports to open)"


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
