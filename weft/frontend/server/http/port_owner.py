"""The process that listens on a port of this machine, as far as this user may see it. Reads /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
_PROC = Path("/proc")


def port_owner(port: int) -> str:
    """'pid 4711 (python3)'; empty where the port is free, or the process is another user's."""
    links = {f"socket:[{inode}]" for inode in _inodes(port)}
    for entry in _PROC.iterdir() if links else ():
        if entry.name.isdigit() and not links.isdisjoint(_links(entry / "fd")):
            return f"pid {entry.name} ({_name(entry)})"
    return ""


def _inodes(port: int) -> Iterator[str]:
    """Of sockets that listen on `port`."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _links(folder: Path) -> set[str]:
    links: set[str] = set()
    with suppress(OSError):  # another user's, or gone meanwhile
        for entry in os.listdir(folder):
            with suppress(FileNotFoundError):
                links.add(os.readlink(folder / entry))
    return links


def _name(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:
        return "ended"
