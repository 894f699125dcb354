"""Network addresses of this host and their interfaces, and HOST:PORT in words."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from weft.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host, by name or numeric address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def resolved(self) -> Endpoint:
        """With a numeric address, asked for anew. OSError: the name has none now."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return Endpoint(str(found[0][4][0]), self.port)


def parse_endpoint(field: str, text: str) -> Endpoint:
    """HOST:PORT, an IPv6 address in brackets. ConfigError: it is not that."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if host and port.isdecimal() and 0 < int(port) < 65536 and bracketed == (":" in host):
        return Endpoint(host, int(port))
    message = f"{field} {text}: legal: HOST:PORT, an IPv6 address in brackets, as 10.0.0.1:25000 or [fd00::1]:25000"
    raise ConfigError(message, field=field, value=text)


def is_loopback(host: str) -> bool:
    """Whether a name or address is of this host alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def is_any(host: str) -> bool:
    """Whether it stands for all addresses of a host."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_unspecified
    except ValueError:
        return False


class _SockAddr(ctypes.Structure):
    _fields_ = [("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 26)]


class _IfAddrs(ctypes.Structure):
    pass


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SockAddr)),
]


def own_addresses() -> list[tuple[str, str]]:
    """(address, interface) of all addresses of this host, loopback last."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        return []
    try:
        found = list(_entries(first))
    finally:
        libc.freeifaddrs(first)
    return sorted(found, key=lambda each: is_loopback(each[0]))


def _entries(entry: ctypes._Pointer[_IfAddrs]) -> Iterator[tuple[str, str]]:
    while entry:
        one = entry.contents
        if one.address:
            data = bytes(one.address.contents.data)
            if one.address.contents.family == socket.AF_INET:
                yield socket.inet_ntop(socket.AF_INET, data[2:6]), one.name.decode()
            elif one.address.contents.family == socket.AF_INET6:
                yield socket.inet_ntop(socket.AF_INET6, data[6:22]), one.name.decode()
        entry = one.next


def interface_of(address: str) -> str:
    """The interface that has this address; empty where none has."""
    return next((name for each, name in own_addresses() if each == address), "")


def address_on(interface: str, family: int) -> str:
    """The first address of an interface, IPv6 for AF_INET6. ConfigError: it has none, or does not exist."""
    wanted = family == socket.AF_INET6
    for address, name in own_addresses():
        if name == interface and (":" in address) == wanted:
            return address
    legal = sorted({name for address, name in own_addresses() if (":" in address) == wanted})
    message = f"dist_interface {interface}: it has no {'IPv6' if wanted else 'IPv4'} address; legal: {', '.join(legal)}"
    raise ConfigError(message, field="dist_interface", value=interface, legal=legal)
