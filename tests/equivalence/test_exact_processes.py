"""Sampled layouts again over real processes that are sent one after the other: every backend gives the same bits."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

import weft
from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    LONG,
    MIXED,
    UNLIKE,
    AnySizes,
    ContextSizes,
    ExpertSizes,
    Sizes,
    Workload,
    all_dispatched,
    all_sizes,
    any_layout,
    checkpoint_at,
    make_executor,
    of_one_rank,
    random_prompts,
    run_workload,
    same_bits,
)
from tests.equivalence.rank_replay import Digests
from tests.support.exact_model import write_exact
from tests.support.native_libraries import need
from weft.base.errors import LayoutError
from weft.base.step.plan import StepPlan, StepResult
from weft.compute.ops.base import Numerics
from weft.parallel.arch import ModelConfig, parse_config
from weft.parallel.arch.fit import check_fit
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout

SAMPLES = {2: 6, 3: 6, 4: 8}  # layouts of each world: 20
PROGRAMS = {1: 1, 2: 16, 3: 8, 4: 12, 6: 4}
HALVES = [pytest.param(0), pytest.param(1, marks=pytest.mark.long)]
"""Of a sample of layouts every second one; the others in the long suite."""
MANY_ROWS: dict[int, list[Sizes]] = {2: [(2, 2, 2, 2, 2), (1, 2, 2, 1, 2)], 3: [(3, 3, 3, 1, 3)], 4: [(4, 4, 4, 4, 4)]}
ROUTED_PROGRAMS = [
    *(("experts", *each) for each in [(1, 1, 2), (1, 3, 2), (2, 1, 8), (2, 2, 3), (3, 1, 6), (4, 1, 6), (6, 1, 3)]),
    *(("latent", *each) for each in [(1, 1, 2), (1, 3, 2), (2, 1, 6), (2, 2, 2), (3, 1, 4), (4, 1, 4)]),
]
"""Model, world, threads, layouts."""
Models = Callable[[str, Numerics], Model]


class Recording:
    """An executor that keeps its plans, and every rank's digests."""

    def __init__(self, executor: Any) -> None:
        self.executor, self.plans = executor, list[StepPlan]()
        self.digests = [Digests() for _ in executor.runners]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)

    def step(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        kept = [runner.decoder.tap for runner in self.executor.runners]
        for runner, digests, tap in zip(self.executor.runners, self.digests, kept, strict=True):
            runner.decoder.tap = _both(digests, tap)
        result: StepResult = self.executor.step(plan)
        return result


def _both(one: Callable[..., None], two: Callable[..., None] | None) -> Callable[..., None]:
    def tap(*args: Any) -> None:
        one(*args)
        if two is not None:
            two(*args)

    return tap


Case = tuple[dict[str, Any], list[list[str]]]
RECORDED: dict[tuple[Path, int, AnySizes, Workload], Case] = {}


def record(model: Model, world: int, sizes: AnySizes, work: Workload = MIXED) -> Case:
    """A case for the processes, and what lockstep's ranks gave for it (which equals one rank); run once."""
    if (model.path, world, sizes, work) in RECORDED:
        return RECORDED[model.path, world, sizes, work]
    recording: Any = Recording(make_executor(model.path, any_layout(model.path, world, sizes), EXACT))
    alone = model.reference if work is MIXED else of_one_rank(model.path, EXACT, work)
    assert same_bits(run_workload(recording, work), alone)
    plans = base64.b64encode(msgspec.msgpack.encode(recording.plans)).decode()
    sizes_of_all = sizes if isinstance(sizes, tuple) else asdict(sizes)
    found = {"sizes": sizes_of_all, "plans": plans}, [digests.found for digests in recording.digests]
    return RECORDED.setdefault((model.path, world, sizes, work), found)


Replayed = Callable[[dict[str, Any]], list[Any]]


@pytest.fixture(scope="module")
def replayed() -> Iterator[Replayed]:
    """What the ranks of a job answer; one process has imported everything and forks them."""
    root = str(Path(weft.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.equivalence.rank_replay"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin and process.stdout
        requests, answers = process.stdin, process.stdout

        def ask(job: dict[str, Any]) -> list[Any]:
            requests.write(json.dumps(job) + "\n")
            requests.flush()
            if not select.select([answers], [], [], 240)[0]:
                process.kill()
            line = answers.readline()
            assert line, "the ranks' parent has ended, or was killed after 240 s; stderr says why"
            found: list[Any] = json.loads(line)
            return found

        yield ask
        requests.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("backend", ["shared_memory", "gloo"])
@pytest.mark.parametrize("world", SAMPLES)
def test_processes_equal_lockstep(
    backend: str, world: int, model: Models, replayed: Replayed, record_property: Callable[[str, object], None]
) -> None:
    if backend == "shared_memory":
        need("comm")
    sample = random.Random(world).sample(list(all_sizes(world)), SAMPLES[world])
    exact = model("biased", EXACT)
    recorded = [record(exact, world, sizes) for sizes in sample]
    job = {"backend": backend, "world": world, "checkpoint": str(exact.path), "cases": [case for case, _ in recorded]}
    answers = replayed(job)
    for rank, answer in enumerate(answers):
        assert isinstance(answer, list), f"rank {rank}: {answer}"
        for (_, digests), found, sizes in zip(recorded, answer, sample, strict=True):
            assert found == digests[rank], f"rank {rank} under {sizes}"
    record_property("process_layouts_equal", len(sample))


ON_TWO_HOSTS = {"biased": 8, "experts": 8, "latent": 6}
"""Layouts of four ranks, by kind of model."""


@pytest.mark.parametrize("backend", ["tcp", "program"])
@pytest.mark.parametrize("variant", ON_TWO_HOSTS)
def test_four_ranks_on_two_hosts_equal_lockstep(
    backend: str, variant: str, model: Models, replayed: Replayed, record_property: Callable[[str, object], None]
) -> None:
    """Two on each: groups inside a host, across both, and of one member on each; operations, and programs."""
    need("comm", "step")
    exact, experts = model(variant, EXACT), {"experts": 5, "latent": 6}.get(variant, 0)
    legal: list[Sizes | ExpertSizes] = [*all_sizes(4)]
    if experts:
        legal = [each for each in all_dispatched(4, experts) if each.ep <= experts or each.slots > experts]
    known = ROUTED[4] if variant == "experts" else []
    sample = [*known, *random.Random(backend + variant).sample(legal, ON_TWO_HOSTS[variant])]
    recorded = [record(exact, 4, sizes) for sizes in sample]
    job = {"backend": backend, "hosts": 2, "world": 4, "checkpoint": str(exact.path)}
    for rank, answer in enumerate(replayed(job | {"cases": [case for case, _ in recorded]})):
        assert isinstance(answer, list), f"rank {rank}: {answer}"
        for (_, digests), found, sizes in zip(recorded, answer, sample, strict=True):
            assert found == digests[rank], f"rank {rank} under {sizes}"
    record_property("layouts_on_two_hosts_equal", len(sample))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("variant", "world", "threads", "count"), ROUTED_PROGRAMS)
def test_programs_of_routed_experts_equal_operations_one_by_one(
    variant: str,
    world: int,
    threads: int,
    count: int,
    half: int,
    model: Models,
    replayed: Replayed,
    record_property: Callable[[str, object], None],
) -> None:
    need("comm", "step")
    exact, experts = model(variant, EXACT), {"experts": 5, "latent": 6}[variant]
    legal = [each for each in all_dispatched(world, experts) if each.ep <= experts or each.slots > experts]
    known = ROUTED.get(world, []) if variant == "experts" and half == 0 else []
    sample = [*known, *random.Random(world).sample(legal, count)[half::2]]
    _compare_programs(replayed, exact, world, threads, sample)
    record_property("program_layouts_equal", len(sample))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("world", "half"),
    [pytest.param(world, *half.values, marks=half.marks) for world in PROGRAMS for half in HALVES[: PROGRAMS[world]]],
)
def test_programs_equal_operations_one_by_one(
    threads: int,
    world: int,
    half: int,
    model: Models,
    replayed: Replayed,
    record_property: Callable[[str, object], None],
) -> None:
    """Of C++ and over shared memory, transitions included; the answer key is torch, one operation after the other."""
    need("comm", "step")
    sample = random.Random(world).sample(list(all_sizes(world)), PROGRAMS[world])[: 4 if threads > 1 else None][half::2]
    _compare_programs(replayed, model("biased", EXACT), world, threads, sample)
    record_property("program_layouts_equal", len(sample))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("world", MANY_ROWS)
def test_programs_of_many_rows_equal_operations_one_by_one(
    threads: int, world: int, model: Models, replayed: Replayed
) -> None:
    need("comm", "step")
    _compare_programs(replayed, model("tied", EXACT), world, threads, MANY_ROWS[world], LONG)


def _compare_programs(
    replayed: Replayed,
    exact: Model,
    world: int,
    threads: int,
    sample: Sequence[AnySizes],
    work: Workload = MIXED,
) -> None:
    recorded = [record(exact, world, sizes, work) for sizes in sample]
    cases = [case for case, _ in recorded]
    job = {"backend": "program", "world": world, "checkpoint": str(exact.path), "cases": cases, "threads": threads}
    for rank, answer in enumerate(replayed(job)):
        assert isinstance(answer, list), f"rank {rank}: {answer}"
        for (_, digests), found, sizes in zip(recorded, answer, sample, strict=True):
            assert found == digests[rank], f"rank {rank} under {sizes}"


ROUTED = {
    2: [ExpertSizes(1, 1, 2, 8, 1, 1, "all_to_all"), ExpertSizes(2, 2, 1, 5, 2, 1, "all_to_all")],
    3: [ExpertSizes(1, 1, 3, 9, 3, 3, "all_to_all"), ExpertSizes(3, 1, 3, 5, 1, 1, "all_gather")],
    4: [ExpertSizes(2, 2, 2, 6, 1, 4, "all_to_all"), ExpertSizes(1, 1, 2, 5, 2, 1, "all_to_all")],
}


@pytest.mark.parametrize("backend", ["shared_memory", "gloo"])
@pytest.mark.parametrize("world", ROUTED)
def test_routed_rows_between_processes_equal_lockstep(
    backend: str, world: int, model: Models, replayed: Replayed
) -> None:
    if backend == "shared_memory":
        need("comm")
    exact = model("experts", EXACT)
    recorded = [record(exact, world, sizes) for sizes in ROUTED[world]]
    job = {"backend": backend, "world": world, "checkpoint": str(exact.path), "cases": [case for case, _ in recorded]}
    for rank, answer in enumerate(replayed(job)):
        assert answer == [digests[rank] for _, digests in recorded], f"rank {rank}: {answer}"


SHARED_CONTEXTS = [
    *((ContextSizes(*each), MIXED) for each in [(2, 2, 2, 1), (4, 1, 4, 1), (1, 4, 1, 1), (2, 1, 2, 2)]),
    *((ContextSizes(2, 1, 2, 2, dispatch), UNLIKE) for dispatch in ("all_gather", "all_to_all")),
    *((ContextSizes(1, 2, 1, 2, dispatch), UNLIKE) for dispatch in ("all_gather", "all_to_all")),
]


@pytest.mark.parametrize("backend", ["shared_memory", "gloo", "tcp", "program"])
def test_shared_contexts_between_processes_equal_lockstep(backend: str, model: Models, replayed: Replayed) -> None:
    """`tcp` and `program`: on two hosts."""
    need("comm")
    if backend == "program":
        need("step")
    exact = model("latent", EXACT)
    recorded = [record(exact, 4, sizes, work) for sizes, work in SHARED_CONTEXTS]
    job = {
        "backend": backend,
        "hosts": 2 if backend in ("tcp", "program") else 1,
        "world": 4,
        "checkpoint": str(exact.path),
    }
    for rank, answer in enumerate(replayed(job | {"cases": [case for case, _ in recorded]})):
        assert answer == [digests[rank] for _, digests in recorded], f"rank {rank}: {answer}"


def every_shared_context(world: int, model: Model) -> Iterator[ContextSizes]:
    """All of a world of one stage that the model's heads allow."""
    config = parse_config(checkpoint_at(model.path).config)
    for tp, cp, dp in itertools.product(divisors(world), repeat=3):
        for kv_split in divisors(tp) if tp * cp * dp == world else ():
            sizes = ContextSizes(tp, cp, kv_split, dp)
            if cp * kv_split > 1 and _fits(config, sizes.layout(world, config.num_experts)):
                yield sizes


def _fits(config: ModelConfig, layout: Layout) -> bool:
    try:
        check_fit(layout, config)
    except LayoutError:
        return False
    return True


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("variant", ["biased", "qk_norm", "window", "experts", "latent"])
def test_programs_of_shared_contexts_equal_operations_one_by_one(
    variant: str, world: int, model: Models, replayed: Replayed, record_property: Callable[[str, object], None]
) -> None:
    """The answer key is torch; prompts reach over several blocks of each owner."""
    need("comm", "step")
    exact = model(variant, EXACT)
    sample = list(every_shared_context(world, exact))
    _compare_programs(replayed, exact, world, 1, sample)
    record_property("program_layouts_equal", len(sample))


def test_programs_divide_last_in_exact_ties(replayed: Replayed, tmp_path: Path) -> None:
    """All scores are equal, so that quotients fall on the middle between two grid points."""
    need("comm", "step")
    path = write_exact(tmp_path, "latent", changed=lambda name, x: x * ("q_b_proj" not in name))
    exact = Model(path, EXACT, of_one_rank(path, EXACT, MIXED))
    work = Workload(random_prompts((60, 45), 101), (0, 0), max_tokens=40, budget=25)
    _compare_programs(replayed, exact, 3, 1, [ContextSizes(3, 1, 3), ContextSizes(1, 3, 1)], work)
