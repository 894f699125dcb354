"""Where agents find host 0, and what ranks of one start prove to each other."""

from __future__ import annotations

import hmac
import socket
import time

from weft.base.errors import ConfigError
from weft.base.machine.own_addresses import Endpoint, address_on, is_any, is_loopback, own_addresses
from weft.compute.comm.distributed.links import listen
from weft.runtime.launch_plan.hosts import HostsConfig

NAME_S = 20.0


def token_of(key: bytes, salt: bytes) -> bytes:
    """What connections between the ranks of one start prove: made of the secret, and never sent."""
    return hmac.digest(key, b"ranks" + salt, "sha256")


def listen_for_agents(config: HostsConfig) -> socket.socket:
    """ConfigError: not an address of this host, with those that are; or its port is taken."""
    field, word = "dist_init_addr", config.dist_init_addr
    if is_any(config.endpoint.host):
        message = f"{field} {word}: it must be one address of host 0; its own: {_own()}"
        raise ConfigError(message, field=field, value=word)
    try:
        at = _resolved(config.endpoint)
        if is_loopback(at.host) and not is_loopback(config.endpoint.host):
            at = Endpoint(_beyond_loopback(config, at.host), at.port)
        return listen(at.host, at.port)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{field} {word}: cannot listen there: {reason}; this host's own addresses: {_own()}"
        raise ConfigError(message, field=field, value=word) from error


def _resolved(endpoint: Endpoint) -> Endpoint:
    """With a numeric address. A container's own name may be known seconds after its start. OSError: it has none."""
    deadline = time.monotonic() + NAME_S
    while True:
        try:
            return endpoint.resolved()
        except socket.gaierror:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _beyond_loopback(config: HostsConfig, found: str) -> str:
    """The address of this host, whose own name leads to its loopback address (Debian's /etc/hosts: 127.0.1.1). It is
    the one that it has, or that of --dist-interface. ConfigError: it has several."""
    if config.dist_interface is not None:
        return address_on(config.dist_interface, socket.AF_INET)
    others = [address for address, _ in own_addresses() if not is_loopback(address) and ":" not in address]
    if len(others) == 1:
        return others[0]
    field, word = "dist_init_addr", config.dist_init_addr
    message = (
        f"{field} {word}: on this host the name leads to {found}, where other hosts cannot reach it: give an address or"
        f" --dist-interface; its own: {_own()}"
    )
    raise ConfigError(message, field=field, value=word)


def _own() -> str:
    return ", ".join(f"{address} ({interface})" for address, interface in own_addresses())
