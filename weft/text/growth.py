"""How much a tokenizer's steps may lengthen a text: one that doubles it twenty times over fills any memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer as Backend

from weft.errors import CheckpointError

MOST_GROWTH = 256
"""Times that a text may become longer in all steps together; real ones make it about three times as long."""
SAMPLE = 100
"""Characters of the text that the growth is computed for."""
LONGEST_PIECE = 1024
"""Characters that one step may write in place of others, or before a text."""
STEPS = ("normalizer", "pre_tokenizer", "decoder")


def check_growth(backend: Backend) -> None:
    """CheckpointError: a step of tokenizer.json writes too much."""
    for name in STEPS:
        step, length = getattr(backend, name), float(SAMPLE)
        for kind, written, read in _written(json.loads(step.__getstate__())) if step is not None else ():
            if written > LONGEST_PIECE:
                raise CheckpointError(
                    f"{name}: {kind} writes {written} characters; legal: {LONGEST_PIECE} characters at most"
                )
            length = length * max(1.0, written / max(1, read)) if kind == "Replace" else length + written
        if length > MOST_GROWTH * SAMPLE:
            raise CheckpointError(
                f"{name}: it makes {length:.3g} characters of {SAMPLE}; legal: {MOST_GROWTH} times as many at most"
            )


def _written(step: Any) -> Iterator[tuple[str, int, int]]:
    """Of each part of a step that writes text: its kind, and characters that it writes and reads. What a regular
    expression matches may be empty: it then writes before every character, too."""
    if isinstance(step, list):
        for each in step:
            yield from _written(each)
    if not isinstance(step, dict):
        return
    kind = step.get("type")
    if kind == "Replace":
        pattern, content = step["pattern"], len(step["content"])
        literal = pattern.get("String", "")
        yield kind, content if literal else content + 1, len(literal)
    elif kind == "Prepend":
        yield kind, len(step["prepend"]), 0
    else:
        for value in step.values():
            yield from _written(value)
