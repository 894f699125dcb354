"""What every driver of an engine shares: JSON lines in, JSON lines out. Standard library only: each driver runs in its
engine's own environment.

    {"do": "load", "settings": {...}}                                 -> {"ok": {"version": ...}}
    {"do": "run", "prompts": [[id, ...], ...], "new_tokens": N}       -> {"ok": {"first_s", "seconds", "ids"}}

All prompts of a run are there at once; greedy, and the end of a text ends nothing. A call that fails answers
{"error": text}, one that the engine cannot do at all {"refused": text}. The driver ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


class Refused(Exception):
    """The engine says that it does not do what is asked; not a failure of the measurement."""


@dataclass(frozen=True)
class Answer:
    """`first_s`: seconds to the first token of all, None where the engine does not show it; `seconds`: to the last.

    `ids`: what was generated, a list per prompt; None where a tool makes up its own.
    `peak_bytes`: of a process that has ended already; only the driver has it.
    """

    first_s: float | None
    seconds: float
    ids: list[list[int]] | None = None
    peak_bytes: int | None = None


class Driver(ABC):
    """One engine with one model."""

    @abstractmethod
    def load(self, settings: dict[str, Any]) -> str:
        """Makes the engine ready; returns its version."""

    @abstractmethod
    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        """Exactly `new_tokens` for each prompt."""


def obey(driver: Driver) -> None:
    """Answers until the input ends. Standard output belongs to the answers; what the engine prints goes to error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_answer(driver, json.loads(line))), file=answers, flush=True)


def _answer(driver: Driver, command: dict[str, Any]) -> dict[str, Any]:
    calls: dict[str, Callable[[], object]] = {
        "load": lambda: {"version": driver.load(command["settings"])},
        "run": lambda: asdict(driver.run(command["prompts"], command["new_tokens"])),
    }
    try:
        return {"ok": calls[command["do"]]()}
    except Refused as error:
        return {"refused": str(error)}
    except Exception as error:  # whatever an engine raises is an answer, for the other engines go on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
