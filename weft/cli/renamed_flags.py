"""Flags of earlier versions: each names the flag that took its place."""

from __future__ import annotations

from collections.abc import Sequence

from weft.errors import UsageError

RENAMED_FLAGS = {
    "--screen-logits": "--prune-argmax",
    "--no-screen-logits": "--no-prune-argmax",
}


def refuse_renamed_flags(words: Sequence[str]) -> None:
    """UsageError for a flag of an earlier version, with the flag to give instead; words after `--` are no flags."""
    flags = words[: words.index("--")] if "--" in words else words
    for word in flags:
        flag, equals, value = word.partition("=")
        if flag in RENAMED_FLAGS:
            raise UsageError(f"{flag} is {RENAMED_FLAGS[flag]} now: give {RENAMED_FLAGS[flag]}{equals}{value}")
