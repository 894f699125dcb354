"""Where agents find host 0, and what ranks of one start prove to each other."""

from __future__ import annotations

import hmac
import socket

from weft.comm.distributed.links import listen
from weft.errors import ConfigError
from weft.launch_plan.hosts import HostsConfig
from weft.machine.own_addresses import is_any, own_addresses


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
        at = config.endpoint.resolved()
        return listen(at.host, at.port)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{field} {word}: cannot listen there: {reason}; this host's own addresses: {_own()}"
        raise ConfigError(message, field=field, value=word) from error


def _own() -> str:
    return ", ".join(f"{address} ({interface})" for address, interface in own_addresses())
