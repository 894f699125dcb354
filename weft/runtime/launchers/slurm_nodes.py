"""Slurm's lists of nodes: 'gpu[01-03,7],login' -> gpu01, gpu02, gpu03, gpu7, login. As `scontrol show hostnames`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from weft.base.errors import ConfigError

_ENTRY = re.compile(r"(?:[^\[\],]|\[[^\[\]]*\])+")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
MOST = 65_536
"""Nodes in a list: a mistyped range must not fill the memory."""


def expanded(text: str) -> list[str]:
    """The nodes in the list's order, which is that of SLURM_NODEID. ConfigError: it is no such list."""
    entries = _ENTRY.findall(text)
    if ",".join(entries) != text or not text:
        raise _wrong(text)
    found: list[str] = []
    for entry in entries:
        parts = [list(_part(text, part)) for part in re.split(r"(\[[^\[\]]*\])", entry)]
        found += map("".join, product(*parts))
        if len(found) > MOST:
            raise _wrong(text)
    return found


def _part(text: str, part: str) -> Iterator[str]:
    """What one part of a name may be: itself, or each of the numbers in brackets, with the zeros before them."""
    if not part.startswith("["):
        yield part
        return
    for word in part[1:-1].split(","):
        match = _RANGE.fullmatch(word)
        if match is None:
            raise _wrong(text)
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) not in range(MOST):
            raise _wrong(text)
        yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))


def _wrong(text: str) -> ConfigError:
    return ConfigError(f"{text}: not a list of Slurm's nodes, as gpu[01-03,7]", field="SLURM_JOB_NODELIST", value=text)
