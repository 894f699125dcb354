"""Hosts: the names that requests may call the server by."""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.errors import RequestError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Hosts:
    """`names` without ports; None: any."""

    names: frozenset[str] | None = None

    def check(self, header: str) -> None:
        """RequestError (403) for a `Host` header with another name; one without any is not from a browser."""
        if self.names is None or not header:
            return
        name = header.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name not in self.names:
            raise RequestError(
                f"host '{name[:80]}' is not allowed; the operator can allow it with --allowed-hosts",
                status=403,
                code="host_not_allowed",
            )
