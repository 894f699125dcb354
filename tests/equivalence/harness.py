"""Runs a small model under any layout through the real engine: loader, scheduler, paged cache, transitions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.experts.balancing.expert_balancing import ExpertBalancing
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.record import GreedyOutput, LogitsRecorder

MODULES = ("attention", "o_proj", "dense", "embedding", "lm_head")
Sizes = tuple[int, int, int, int, int]
T = TypeVar("T")
Key = TypeVar("Key", bound=tuple[object, ...])
LIMITS = RankCapacity(num_blocks=80, block_size=4, max_num_seqs=4, max_model_len=176)
EXACT = Numerics(torch.float32, exact=True)


@dataclass(frozen=True)
class Workload:
    """Prompts that arrive at given steps; `budget` tokens a step and group. Steps are mixed, prefills chunked."""

    prompts: tuple[tuple[int, ...], ...]
    arrivals: tuple[int, ...]
    max_tokens: int
    budget: int


def random_prompts(lengths: Sequence[int], vocab: int, seed: int = 5) -> tuple[tuple[int, ...], ...]:
    draw = random.Random(seed)
    return tuple(tuple(draw.randrange(vocab) for _ in range(length)) for length in lengths)


PROMPTS = random_prompts((7, 1, 11, 4), 101)
# a budget of 5 cuts the long prompts into chunks, later arrivals prefill beside decoding rows, one dp group stays idle
MIXED = Workload(PROMPTS, (0, 0, 0, 2), max_tokens=3, budget=5)
ALONE = Workload(PROMPTS, (0, 10, 20, 30), max_tokens=3, budget=64)
# only one dp group has rows; then prompts that gather keys arrive beside streams of the other
UNLIKE = Workload(random_prompts((60, 3, 45, 50), 101), (0, 4, 6, 7), max_tokens=4, budget=288)
# a step of so many rows that ranks split them
LONG = Workload(random_prompts((160, 3, 110), 101), (0, 0, 0), max_tokens=3, budget=288)


def all_sizes(world: int) -> Iterator[Sizes]:
    """Every legal dense layout of a world: a size for each module."""
    yield from itertools.product(divisors(world), repeat=5)


def covering(every: Iterable[T], strength: int) -> tuple[list[T], list[T]]:
    """Layouts in two: some that hold every combination of any `strength` sizes that `every` holds, and the rest.

    First those with the most combinations that none before has.
    """
    parts = {one: set(itertools.combinations(enumerate(_values(one)), strength)) for one in every}
    chosen, seen = set[T](), set[object]()
    for least in range(max(map(len, parts.values())), 0, -1):
        for one, combinations in parts.items():
            if len(combinations - seen) >= least:
                seen |= combinations
                chosen.add(one)
    return [one for one in parts if one in chosen], [one for one in parts if one not in chosen]


def combinations_of(layouts: Iterable[object], axes: Sequence[int]) -> set[tuple[object, ...]]:
    """Sizes that the layouts have together in these places."""
    return {tuple(_values(one)[axis] for axis in axes) for one in layouts}


def _values(sizes: object) -> tuple[object, ...]:
    return sizes if isinstance(sizes, tuple) else astuple(sizes)  # type: ignore[call-overload]


@dataclass(frozen=True)
class ExpertSizes:
    """Sizes of a layout of a model with experts; what is not named takes its default."""

    attention: int
    tp: int
    ep: int
    slots: int
    shared: int
    others: int
    dispatch: str = "all_gather"

    def layout(self, world: int, num_experts: int) -> Layout:
        given: dict[str, object] = {
            "attention.tp": self.attention,
            "experts.tp": self.tp,
            "experts.ep": self.ep,
            "experts.slots": self.slots,
            "experts.dispatch": self.dispatch,
            "shared_experts.tp": self.shared,
            "o_proj.tp": self.others,
            "dense.tp": self.others,
            "lm_head.tp": self.others,
        }
        return resolve(given, world, num_experts=num_experts)


@dataclass(frozen=True)
class ContextSizes:
    """Sizes of a layout whose ranks share the KV cache of a request by position."""

    tp: int
    cp: int
    kv_split: int
    dp: int = 1
    dispatch: str = "auto"

    def layout(self, world: int, num_experts: int) -> Layout:
        of_attention = ("tp", "cp", "kv_split", "dp")
        sizes: dict[str, object] = {f"attention.{name}": getattr(self, name) for name in of_attention}
        if num_experts:
            sizes["experts.dispatch"] = self.dispatch
        return resolve(sizes, world, num_experts=num_experts)


AnySizes = Sizes | ExpertSizes | ContextSizes


def all_expert_sizes(world: int, num_experts: int) -> Iterator[ExpertSizes]:
    """Every legal (attention tp, expert tp x ep, slots, shared size) of a world; replicas: none, or a few slots more.

    The sizes of the other modules are attention's, or the world.
    """
    for attention, shared in itertools.product(divisors(world), repeat=2):
        for tp, ep in itertools.product(divisors(world), repeat=2):
            if world % (tp * ep):
                continue
            more = -(-num_experts // ep) * ep + ep
            for slots, others in itertools.product((num_experts, more), {attention, world}):
                yield ExpertSizes(attention, tp, ep, slots, shared, others)


def all_dispatched(world: int, num_experts: int) -> Iterator[ExpertSizes]:
    """`all_expert_sizes` under every dispatcher that exchanges anything."""
    for sizes in all_expert_sizes(world, num_experts):
        yield sizes
        if sizes.tp * sizes.ep > 1:
            yield replace(sizes, dispatch="all_to_all")


def in_chunks(layouts: Mapping[Key, tuple[list[T], list[T]]], size: int) -> list[Any]:
    """Parameters of tests: the key of two lists, and at most `size` layouts; those of the second in the long suite."""
    return [
        pytest.param(*key, every[first : first + size], id="-".join(map(str, (*key, name, first))), marks=marks)
        for key, parts in layouts.items()
        for name, every, marks in zip(("some", "more"), parts, ([], [pytest.mark.long]), strict=True)
        for first in range(0, len(every), size)
    ]


def layout_of(world: int, sizes: Sizes, split: str = "groups") -> Layout:
    given: dict[str, object] = {f"{name}.tp": size for name, size in zip(MODULES, sizes, strict=True)}
    return resolve({**given, "attention.split": split}, world)


def any_layout(path: Path, world: int, sizes: AnySizes) -> Layout:
    """The layout that sizes of any kind mean for a checkpoint."""
    if isinstance(sizes, (ExpertSizes, ContextSizes)):
        return sizes.layout(world, parse_config(checkpoint_at(path).config).num_experts)
    return layout_of(world, sizes)


@cache
def checkpoint_at(path: Path) -> Checkpoint:
    return open_checkpoint(path)


def make_executor(
    path: Path, layout: Layout, numerics: Numerics, device: str = "cpu", enforce_eager: bool = True
) -> LockstepExecutor:
    checkpoint = checkpoint_at(path)
    shards = Shards(parse_config(checkpoint.config), layout)
    return LockstepExecutor(checkpoint, shards, numerics, LIMITS, torch.device(device), enforce_eager)


def run_workload(
    executor: LockstepExecutor,
    work: Workload,
    balancing: ExpertBalancing | None = None,
    recorder: LogitsRecorder | None = None,
) -> list[GreedyOutput]:
    """Each request's tokens and logits; requests arrive at their step, or as soon as nothing else is left to do."""
    recorder = recorder or LogitsRecorder(executor)
    config = EngineConfig(
        max_model_len=executor.limits.max_model_len,
        max_num_seqs=4,
        max_num_batched_tokens=work.budget,
        block_size=executor.limits.block_size,
        prefill_stretch=0,  # what a step carries depends on no clock
    )
    engine = Engine(recorder, config, (), vocab_size=101, balancing=balancing)
    outcomes = [GreedyOutput() for _ in work.prompts]
    params = SamplingParams(temperature=0.0, max_tokens=work.max_tokens, ignore_eos=True)
    waiting, step = list(range(len(work.prompts))), 0
    while waiting or engine.has_work:
        while waiting and (work.arrivals[waiting[0]] <= step or not engine.has_work):
            index = waiting.pop(0)
            engine.add_request(str(index), list(work.prompts[index]), params)
        for output in engine.step():
            assert output.error is None, output.error
            outcomes[int(output.request_id)].tokens.extend(output.new_token_ids)
        step += 1
    for prompt, outcome in zip(work.prompts, outcomes, strict=True):
        outcome.logits = recorder.logits[prompt]
        assert len(outcome.logits) == len(outcome.tokens) == work.max_tokens
    return outcomes


@cache
def of_one_rank(path: Path, numerics: Numerics, work: Workload) -> list[GreedyOutput]:
    """What every layout is to give; run once."""
    experts = parse_config(checkpoint_at(path).config).num_experts
    return run_workload(make_executor(path, resolve({}, num_experts=experts), numerics), work)


def same_bits(a: Sequence[GreedyOutput], b: Sequence[GreedyOutput]) -> bool:
    """Tokens equal and logits equal bit for bit."""
    return all(
        one.tokens == two.tokens and torch.equal(torch.stack(one.logits), torch.stack(two.logits))
        for one, two in zip(a, b, strict=True)
    )


def largest_difference(a: Sequence[GreedyOutput], b: Sequence[GreedyOutput]) -> float:
    return max(
        float((torch.stack(one.logits) - torch.stack(two.logits)).abs().max()) for one, two in zip(a, b, strict=True)
    )
