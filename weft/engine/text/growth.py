"""What would end the process that reads a tokenizer.json, found before it does.

A step that doubles a text twenty times over fills any memory, and the library ends the process where it cuts a prefix
off a token that does not begin with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tokenizers import Tokenizer as Backend

from weft.base.errors import CheckpointError
from weft.base.fields import shown

MOST_GROWTH = 256
"""Times that a text may become longer in all steps together; real ones make it about three times as long."""
SAMPLE = 100
"""Characters of the text that the growth is computed for."""
LONGEST_PIECE = 1024
"""Characters that one step may write in place of others, or before a text."""
STEPS = ("normalizer", "pre_tokenizer", "decoder")
PREFIXED = re.compile(r'"continuing_subword_prefix"\s*:\s*(?!null\b|"")')


def check_merges(text: str) -> None:
    """CheckpointError: the second part of a merge lacks the prefix of parts that continue a word; `text`:
    tokenizer.json. Whatever else is wrong, the library says."""
    if not PREFIXED.search(text):
        return
    with suppress(ValueError, RecursionError, AttributeError, TypeError, LookupError):
        model = json.loads(text)["model"]
        prefix = model["continuing_subword_prefix"]
        for merge in model["merges"]:
            first, second = merge.split(" ") if isinstance(merge, str) else merge
            if prefix and not second.startswith(prefix):
                raise CheckpointError(
                    f"merge {shown([first, second])}: the second part does not begin with"
                    f" continuing_subword_prefix {shown(prefix)}"
                )


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
