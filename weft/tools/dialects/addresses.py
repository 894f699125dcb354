"""Where the first node listens, in the words of each engine: one HOST:PORT, or host and port apart."""

from __future__ import annotations

from collections.abc import Mapping

from weft.tools.dialects.base import Diagnostic
from weft.tools.dialects.sizes import whole_number

_JOINED = ("sglang", "tokenspeed")
"""Engines that take HOST:PORT in one option."""
_PORT = "5000"


def addresses_for(
    options: Mapping[str, object], target: str, nodes: int, dp: int
) -> tuple[dict[str, object], list[Diagnostic]]:
    """The options with the address as `target` names it; a note where a port had to be chosen."""
    found = dict(options)
    if target in _JOINED:
        return _join(found)
    if target == "vllm":
        _split(found, nodes, dp)
    return found, []


def _join(options: dict[str, object]) -> tuple[dict[str, object], list[Diagnostic]]:
    master, dp = options.pop("master_addr", None), options.pop("data_parallel_address", None)
    port, dp_port = options.pop("master_port", None), options.pop("data_parallel_rpc_port", None)
    host = master or dp
    if not master:
        port = port or dp_port
    if host is None or options.get("dist_init_addr"):
        return options, []
    options["dist_init_addr"] = f"{host}:{port or _PORT}"
    chosen = f"--dist-init-addr {host}:{_PORT}: the port is chosen here, the source names none for it"
    return options, [] if port else [Diagnostic("info", "port", chosen)]


def _split(options: dict[str, object], nodes: int, dp: int) -> None:
    address = options.pop("dist_init_addr", None)
    if not isinstance(address, str) or nodes == 1:
        return
    host, colon, port = address.rpartition(":")
    number = whole_number(port) if colon else None
    host = address if number is None else host
    options.setdefault("master_addr", host)
    if number is not None:
        options.setdefault("master_port", number)
    if dp > 1:
        options.setdefault("data_parallel_address", host)
