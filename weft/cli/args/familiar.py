"""Options of other engines (vLLM, SGLang, TensorRT-LLM, TokenSpeed, MindIE, llama.cpp, ollama) on weft's command line.

Each means what it means in its own engine, is taken without effect and a note, or is refused with what to use instead.
Where two engines differ, it is refused with both readings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import msgspec

from weft.base.data_files import read_toml
from weft.base.errors import UsageError

Say = Callable[[str], None]


class FamiliarWord(msgspec.Struct, frozen=True):
    """An entry of familiar.toml."""

    names: tuple[str, ...]
    engines: tuple[str, ...]
    kind: Literal["to", "model", "taken", "refused"]
    to: str = ""
    value: str | None = None
    bare: bool = False
    accepts: tuple[str, ...] = ()
    says: str = ""


class _Table(msgspec.Struct, frozen=True):
    words: tuple[FamiliarWord, ...]


WORDS = read_toml("weft.cli.args", "familiar.toml", _Table).words
_BY_NAME = {name: word for word in WORDS for name in word.names}


def familiar(flag: str) -> FamiliarWord | None:
    """The entry of another engine's option; underscores count as dashes."""
    return _BY_NAME.get("--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag)


class Rewriting:
    """Words of a command with options of other engines as weft's own. `flags`: the command's options; `valued`: those
    that take a value, which is never looked at; `say` gets the notes."""

    def __init__(self, flags: Collection[str], valued: Collection[str], say: Say) -> None:
        self._flags, self._valued, self._say = flags, valued, say
        self.model: str | None = None
        """What an option named as the model."""

    def of(self, words: Sequence[str]) -> list[str]:
        """UsageError: an option is refused, or its value is."""
        return list(self._rewritten(iter(words)))

    def _rewritten(self, words: Iterator[str]) -> Iterator[str]:
        for word in words:
            name, equals, value = word.partition("=")
            entry = None if name in self._flags or not name.startswith("-") else familiar(name)
            if entry is None:
                yield word
                if word in self._valued:
                    yield from (one for one in (next(words, None),) if one is not None)
                continue
            if entry.kind == "refused":
                raise UsageError(f"unknown option {name}; {entry.says}")
            given = value if equals else None
            if given is None and not entry.bare:
                given = next(words, None)
                if given is None:
                    raise UsageError(f"{name}: a value is missing")
            yield from self._taken(name, entry, given)

    def _taken(self, name: str, entry: FamiliarWord, value: str | None) -> Iterator[str]:
        if entry.kind == "model":
            if self.model not in (None, value):
                raise UsageError(f"{name} {value}: the model is {self.model} already; leave one out")
            self.model = value
            return
        if entry.kind == "taken":
            if entry.accepts and value not in entry.accepts:
                raise UsageError(f"{name} {value}: {entry.says}")
            self._say(f"note: {name}: {entry.says}")
            return
        if entry.to not in self._flags:
            raise UsageError(f"unknown option {name}; it is {entry.to} of other commands of weft")
        if entry.says:
            self._say(f"note: {name} is {entry.to} here: {entry.says}")
        yield entry.to
        if entry.value is not None or value is not None:
            yield entry.value if entry.value is not None else str(value)
