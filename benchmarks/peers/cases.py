"""What is measured: the cases, and the quantities that a run of one gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Case:
    """`streams` prompts of `prompt` tokens, all there at once, `new` tokens each. `main`: part of the main table."""

    name: str
    streams: int
    prompt: int
    new: int
    main: bool = True

    @property
    def served(self) -> bool:
        """Measured through HTTP."""
        return self.name.startswith("http")

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt + self.new

    def quick(self) -> Case:
        """The same with a few new tokens: whether it works, not how fast it is."""
        return replace(self, new=min(self.new, 16))


OFFLINE = (
    Case("decode", 1, 128, 256),
    Case("prefill", 1, 1024, 1),
    Case("streams8", 8, 128, 128),
    Case("streams32", 32, 128, 128),
    Case("streams64", 64, 128, 128, main=False),
    Case("streams256", 256, 128, 128, main=False),
    Case("long4k", 1, 3968, 128, main=False),
    Case("long8k", 1, 8064, 128, main=False),
)
SERVED = (
    Case("http1", 1, 128, 128),
    Case("http8", 8, 128, 128),
    Case("http32", 32, 128, 128),
    Case("http64", 64, 128, 128, main=False),
    Case("http256", 256, 128, 128, main=False),
)
GROUPS = {
    "main": tuple(case.name for case in (*OFFLINE, *SERVED) if case.main),
    "offline": tuple(case.name for case in OFFLINE if case.main),
    "http": tuple(case.name for case in SERVED if case.main),
    "long": ("long4k", "long8k"),
}


def chosen(words: Sequence[str]) -> tuple[Case, ...]:
    """Cases by name or group, in the table's order. ValueError for another word."""
    by_name = {case.name: case for case in (*OFFLINE, *SERVED)}
    unknown = [word for word in words if word not in by_name and word not in GROUPS]
    if unknown:
        raise ValueError(f"no case {', '.join(unknown)}; legal: {', '.join([*GROUPS, *by_name])}")
    names = {name for word in words for name in GROUPS.get(word, (word,))}
    return tuple(case for name, case in by_name.items() if name in names)


def figures(case: Case, first_s: float | None, seconds: float) -> dict[str, float]:
    """Tokens per second: `decode` after the first token and `prefill` before it (one stream), `output` in all."""
    found = {"output": case.streams * case.new / seconds}
    if first_s is None or case.streams > 1:
        return found
    found["prefill"] = case.prompt / first_s
    if case.new > 1:
        found["decode"] = (case.new - 1) / (seconds - first_s)
    return found
