"""The listening socket: bound before anything else is started, so that a port in use is said first."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat

from weft.base.errors import ConfigError
from weft.frontend.server.http.port_owner import port_owner

BACKLOG = 2048
SEND_BUFFER = 64 * 1024
"""Bytes that the system holds of what a connection sends (it takes twice of it); else up to 4 MB
for each client that does not read."""


def bind(host: str, port: int, *, keyed: bool = False) -> socket.socket:
    """A bound socket that listens. ConfigError: a host beyond this machine without a key (`keyed`), or the port cannot
    be had."""
    family, address = _address(host, port, keyed)
    # Named, because asyncio sends small writes at once only on a socket that says it is TCP.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot(host, port, error) from error
    return sock


def bind_unix(path: str) -> socket.socket:
    """A Unix socket that listens at `path`, for this user alone. A socket file that no process listens on is replaced.
    ConfigError: it cannot listen there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)  # a path that is too long has no errno
        raise ConfigError(f"uds {path}: {reason}", field="uds", value=path) from error
    return sock


def _clear(path: str) -> None:
    """Removes a socket without a listener; OSError for one that has a listener, or for another file."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "another process listens there")
    os.unlink(path)


def _address(host: str, port: int, keyed: bool) -> tuple[socket.AddressFamily, str]:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: legal: 0 (any free one) to 65535", field="port", value=port)
    address = "127.0.0.1" if host == "localhost" else host
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if not keyed and (parsed is None or not parsed.is_loopback):
        raise ConfigError(
            f"host {host}: without an API key this server listens on this machine only: give --api-key or"
            " --api-key-file; legal: 127.0.0.1, localhost, ::1",
            field="host",
            value=host,
            legal=("127.0.0.1", "localhost", "::1"),
        )
    if parsed is None:
        raise ConfigError(f"host {host}: legal: localhost, or an address of this machine", field="host", value=host)
    return (socket.AF_INET6 if parsed.version == 6 else socket.AF_INET), address


def _cannot(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        return ConfigError(
            f"port {port} on {host} is in use{f' by {owner}' if owner else ''}; end the process that has it, or choose"
            " another with --port (--port 0: any free one)",
            field="port",
            value=port,
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"port {port}: only privileged processes may listen below 1024; legal: 1024 to 65535",
            field="port",
            value=port,
        )
    return ConfigError(f"cannot listen on {host} port {port}: {error.strerror}", field="port", value=port)
