"""Names of the files of a GGUF model in parts: `name-00001-of-00003.gguf` and so on. Opens no file."""

from __future__ import annotations

import re

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
MOST_PARTS = 1 << 10


def part_names(name: str) -> list[str]:
    """All parts' names, the first one first, where `name` is one of them; else `name` alone."""
    found = _PART.fullmatch(name)
    count = int(found["count"]) if found else 0
    if found is None or not 1 <= int(found["number"]) <= count <= MOST_PARTS:
        return [name]
    return [f"{found['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
