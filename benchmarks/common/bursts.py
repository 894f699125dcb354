"""The same bursts of requests through several engines, in turns: how much of the first one's speed the others have.

Engines stay up and take turns burst by burst, so that what else the machine does meets all. Of every burst the ratio is
taken, and of the ratios median and quartiles. Before and after each case a probe of the memory says what state it is
in. Offline: no HTTP.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from benchmarks.common.offline_engine import tell
from benchmarks.common.timing import ratios_beside
from benchmarks.peers.probe import Probe, State
from weft.base.step.sampling_params import SamplingParams

Burst = tuple[int, int, int]
"""Streams, tokens of each prompt, tokens to give."""

CASES: dict[str, Burst] = {
    "prefill of 1,024": (1, 1024, 1),
    "decode": (1, 8, 40),
    "8 streams": (8, 8, 24),
    "32 streams": (32, 8, 24),
    "8 prompts of 128": (8, 128, 1),
    "32 prompts of 128": (32, 128, 1),
}


class Generates(Protocol):
    """Such as `weft.LLM`."""

    def generate(self, prompts: list[list[int]], params: SamplingParams, /) -> object:
        """Returns when all have ended."""


def burst_s(llm: Generates, burst: Burst) -> float:
    """Seconds until all have ended."""
    streams, length, tokens = burst
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    prompts = [[(7919 * (stream + 1) + 31 * place) % 49_000 for place in range(length)] for stream in range(streams)]
    began = time.perf_counter()
    llm.generate(prompts, params)
    return time.perf_counter() - began


def looked_at(
    probe: Probe, engines: Mapping[str, Generates], cases: Mapping[str, Burst], rounds: int
) -> tuple[dict[str, dict[str, list[float]]], list[State]]:
    """`in_turns` of every case, and what the memory gave before the first and after each."""
    looks, seconds = [probe.ask_behind()], {}
    for name, burst in cases.items():
        seconds[name] = in_turns(engines, burst, rounds)
        looks.append(probe.ask_behind())
    return seconds, looks


def tell_compared(
    arguments: argparse.Namespace, probe: Probe, engines: Mapping[str, Generates], cases: Mapping[str, Burst]
) -> None:
    """`arguments.rounds` of every case, as `tell` says them."""
    seconds, looks = looked_at(probe, engines, cases, arguments.rounds)
    tell(arguments, {name: compared(seconds[name], burst) for name, burst in cases.items()}, looks)


def in_starts(
    probe: Probe,
    makers: Mapping[str, Callable[[], AbstractContextManager[Generates]]],
    cases: Mapping[str, Burst],
    starts: int,
    rounds: int,
) -> tuple[dict[str, dict[str, Any]], list[State]]:
    """As `looked_at`, compared, of engines that are made anew in each start: the last one first in every other, as the
    later one may be faster. With several starts each one's median ratios are given, too."""
    seconds, looks = list[dict[str, dict[str, list[float]]]](), list[State]()
    for number in range(starts):
        with ExitStack() as stack:
            order = [*makers][:: -1 if number % 2 else 1]
            made = {name: stack.enter_context(makers[name]()) for name in order}
            found, seen = looked_at(probe, {name: made[name] for name in makers}, cases, rounds)
        seconds.append(found)
        looks += seen
    return {name: _over_starts([each[name] for each in seconds], burst) for name, burst in cases.items()}, looks


def _over_starts(starts: Sequence[Mapping[str, list[float]]], burst: Burst) -> dict[str, dict[str, Any]]:
    together = {name: [second for start in starts for second in start[name]] for name in starts[0]}
    found: dict[str, dict[str, Any]] = {**compared(together, burst)}
    for name in [*found][1:] if len(starts) > 1 else ():
        found[name]["ratio_of_starts"] = [compared(start, burst)[name]["ratio"] for start in starts]
    return found


def in_turns(engines: Mapping[str, Generates], burst: Burst, rounds: int) -> dict[str, list[float]]:
    """Each engine's seconds, round by round; one round before them is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(burst_s(engines[name], burst))
    return {name: seconds[1:] for name, seconds in taken.items()}


def compared(taken: Mapping[str, list[float]], burst: Burst) -> dict[str, dict[str, float]]:
    """Tokens per second (of a prompt's where none but one are given), medians; of what is not the first engine also its
    ratio to that, with quartiles."""
    streams, length, tokens = burst
    count = streams * (tokens if tokens > 1 else length)
    first, alone = next(iter(taken.items()))
    found = {}
    for name, seconds in taken.items():
        found[name] = {"tok_s": round(count / statistics.median(seconds), 1)}
        if name != first:
            found[name] |= ratios_beside(alone, seconds)
    return found
