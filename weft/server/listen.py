"""The listening socket: bound before anything else is started, so that a port in use is said first. Knows no HTTP."""

from __future__ import annotations

import errno
import ipaddress
import socket

from weft.errors import ConfigError

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that listens. ConfigError: the host is not this machine's loopback, or the port cannot be had."""
    family, address = _loopback(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot(host, port, error) from error
    return sock


def _loopback(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: legal: 0 (any free one) to 65535", field="port", value=port)
    address = "127.0.0.1" if host == "localhost" else host
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if parsed is None or not parsed.is_loopback:
        raise ConfigError(
            f"host {host}: this server has no access keys yet, so it listens on this machine only;"
            " legal: 127.0.0.1, localhost, ::1",
            field="host",
            value=host,
            legal=("127.0.0.1", "localhost", "::1"),
        )
    return (socket.AF_INET6 if parsed.version == 6 else socket.AF_INET), address


def _cannot(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} on {host} is in use; end the process that has it, or choose another with --port"
            " (--port 0: any free one)",
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
