"""The seam to a grammar library: an automaton over token ids, and what compiles one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint32]
"""[ceil(V / 32)]: bit i % 32 of word i / 32 is set where id i may come next."""


OWN_RULES = "// own rules"
"""A line of the grammars that requesters write: a compiler bounds their work more narrowly."""


class GrammarError(Exception):
    """A grammar that cannot be compiled, or that took more work than is allowed; the message is for the requester."""


class Automaton(Protocol):
    """The state of one output. Not for several threads at a time."""

    def feed(self, ids: Sequence[int]) -> None:
        """Takes generated ids. GrammarError: one is not allowed, or the work was too much."""

    def fill(self, mask: Mask) -> None:
        """Writes which ids may come next; never none. GrammarError: the work was too much."""


class GrammarCompiler(Protocol):
    """Compiles serialised grammars for one vocabulary. For several threads: none waits for another's compile."""

    def compile(self, text: str) -> Automaton:
        """At its start. GrammarError: it is not a grammar, or too large a one."""
