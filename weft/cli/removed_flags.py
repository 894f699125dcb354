"""Flags of earlier versions that are gone: each is refused with what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from weft.base.errors import UsageError
from weft.base.options import removed


def refuse_removed_flags(words: Sequence[str]) -> None:
    """UsageError for a flag of an option that is gone; words after `--` are no flags."""
    for word in words[: words.index("--")] if "--" in words else words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and (instead := removed(flag)):
            raise UsageError(f"{flag}: {instead}")
