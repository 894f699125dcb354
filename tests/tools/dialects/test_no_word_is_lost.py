"""Commands recombined from published ones: every word changes what is read, or is said to be left out."""

from __future__ import annotations

import random
import shlex
from functools import cache

import pytest

from tests.support.dialects import all_cases
from weft.base.errors import WeftError
from weft.cli.args.foreign_words import unheeded
from weft.tools.dialects.base import Context, Reading
from weft.tools.dialects.registry import read_words

STARTS = {
    "vllm": ("vllm", "serve", "org/model"),
    "sglang": ("python", "-m", "sglang.launch_server", "--model-path", "org/model"),
    "tokenspeed": ("tokenspeed", "serve", "org/model"),
    "trtllm": ("trtllm-serve", "org/model"),
}
MOST_WORDS = 9
Group = tuple[str, ...]


@cache
def published(dialect: str) -> tuple[Group, ...]:
    """Flags of the engine's commands in the cases, each with its value."""
    found: set[Group] = set()
    for case in all_cases():
        for line in case.text.replace("\\\n", " ").splitlines() if case.dialect == dialect else ():
            if STARTS[dialect][-2 if dialect == "trtllm" else 0] in line or dialect in line:
                found |= _groups(line)
    return tuple(sorted(found))


def _groups(line: str) -> set[Group]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return set()
    found: set[Group] = set()
    for at, word in enumerate(words):
        if not word.startswith("--") or len(word) < 4 or any(mark in word for mark in "$[{<"):
            continue
        after = words[at + 1] if at + 1 < len(words) else "--"
        valued = "=" not in word and not after.startswith("-") and not any(mark in after for mark in "$[<|&;")
        found.add((word, after) if valued else (word,))
    return found


def read(dialect: str, groups: list[Group]) -> tuple[object, ...]:
    """All that a command means, and all that is said of it; the refusal where it has none."""
    words = [*STARTS[dialect], *(word for group in groups for word in group)]
    try:
        readings: list[Reading] = read_words(words, dialect, Context(experts=64))
    except WeftError as error:
        return (str(error),)
    return tuple(
        (each.sizes, dict(each.options), {note.message for note in each.notes}, each.refused, each.role, each.node)
        for each in readings
    )


def lost(dialect: str, seed: int) -> list[Group]:
    draw = random.Random(f"{dialect} {seed}")
    pool = published(dialect)
    by_flag = {group[0].partition("=")[0]: group for group in draw.sample(pool, min(len(pool), MOST_WORDS))}
    groups = list(by_flag.values())
    whole = read(dialect, groups)
    if len(whole) == 1 and isinstance(whole[0], str):
        return []
    words = [*STARTS[dialect], *(word for group in groups for word in group)]
    said = unheeded(words, dialect, Context(experts=64))
    return [each for each in groups if " ".join(each) not in said and not _heeded(dialect, groups, each, whole)]


def _heeded(dialect: str, groups: list[Group], group: Group, whole: tuple[object, ...]) -> bool:
    """Whether the command without it, or with another value, means something else: it may state a default."""
    others = [each for each in groups if each is not group]
    flag, equals, value = group[0].partition("=")
    value = value or (group[1] if len(group) > 1 else "")
    again = [str(int(value) + 1), str(2 * int(value))] if value.isdigit() else ["none-such"] if value else []
    changed = [(f"{flag}={each}",) if equals else (flag, each) for each in again]
    return any(read(dialect, [*others, *each]) != whole for each in ([], *([one] for one in changed)))


@pytest.mark.parametrize("dialect", STARTS)
@pytest.mark.parametrize(("first", "count"), [(0, 40), pytest.param(40, 460, marks=pytest.mark.long)])
def test_no_word_is_lost(dialect: str, first: int, count: int) -> None:
    assert len(published(dialect)) >= 20
    assert {seed: found for seed in range(first, first + count) if (found := lost(dialect, seed))} == {}
