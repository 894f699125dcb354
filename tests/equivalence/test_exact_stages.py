"""Pipeline stages, uneven ones too, give what one rank gives, bit for bit, with several steps in flight (exact model).

Worlds up to 4 with every stage's layouts; of worlds 6 and 8 a sample. The short suite takes some of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    LIMITS,
    LONG,
    MIXED,
    ExpertSizes,
    Sizes,
    Workload,
    all_dispatched,
    all_sizes,
    checkpoint_at,
    covering,
    layout_of,
    make_executor,
    of_one_rank,
    run_workload,
    same_bits,
)
from tests.equivalence.lockstep_pipeline import LockstepPipeline
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.models.transitions import Transitions
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import PipelineTransfer
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.runtime.worker.stage_ids import SampledIds

Models = Callable[[str, Numerics], Model]
LAYERS = {"biased": 2, "tied": 2, "qk_norm": 2, "deep": 5, "experts": 3, "latent": 3}
MODULES = ("attention", "o_proj", "dense", "embedding", "lm_head")


def uneven(layers: int, stages: int) -> tuple[int, ...]:
    """One layer in each stage but the first."""
    return (layers - stages + 1, *[1] * (stages - 1))


def staged(sizes: Sizes | ExpertSizes, per_stage: int, stages: int, experts: int, layers: tuple[int, ...]) -> Layout:
    one = layout_of(per_stage, sizes) if isinstance(sizes, tuple) else sizes.layout(per_stage, experts)
    given: dict[str, object] = {f"{module}.tp": getattr(one, module).tp for module in MODULES}
    if one.experts is not None and one.shared_experts is not None:
        given |= {f"experts.{name}": getattr(one.experts, name) for name in ("tp", "ep", "slots", "dispatch")}
        given["shared_experts.tp"] = one.shared_experts.tp
    given |= {"attention.dp": one.attention.dp, "pipeline.layers": layers}
    return resolve(given, per_stage * stages, num_experts=experts)


def layouts_of(variant: str, world: int) -> Iterator[Layout]:
    """Every one whose stages share the world evenly; uneven stages first, even ones too where these differ."""
    experts = {"experts": 5, "latent": 6}.get(variant, 0)
    for stages in (each for each in range(2, min(world, LAYERS[variant]) + 1) if world % each == 0):
        per_stage = world // stages
        kept: list[Sizes | ExpertSizes] = [*(all_dispatched(per_stage, experts) if experts else all_sizes(per_stage))]
        if per_stage > 2:
            kept = covering(kept, 3)[0]
        for number, one in enumerate(kept):
            layers = uneven(LAYERS[variant], stages)
            yield staged(one, per_stage, stages, experts, layers if number % 2 else layers[::-1])


CASES = [(variant, world) for variant in LAYERS for world in (2, 3, 4)]
SHORT = 6


def is_equal(model: Model, layout: Layout, work: Workload = MIXED) -> bool:
    executor = make_executor(model.path, layout, EXACT)
    found = run_workload(executor, work, recorder=LockstepPipeline(executor))
    return same_bits(found, of_one_rank(model.path, EXACT, work))


@pytest.mark.parametrize("part", ["some", pytest.param("all", marks=pytest.mark.long)])
@pytest.mark.parametrize(("variant", "world"), CASES)
def test_stages_equal_one_rank(model: Models, variant: str, world: int, part: str) -> None:
    every = list(layouts_of(variant, world))
    chosen = every if part == "all" else random.Random(world).sample(every, min(SHORT, len(every)))
    for layout in chosen:
        assert is_equal(model(variant, EXACT), layout), f"{layout} differs from one rank"


@pytest.mark.parametrize(("variant", "world"), [("deep", 6), ("deep", 8), ("latent", 6), ("tied", 8)])
def test_larger_worlds(model: Models, variant: str, world: int) -> None:
    every = list(layouts_of(variant, world))
    for layout in random.Random(world).sample(every, min(4, len(every))):
        assert is_equal(model(variant, EXACT), layout), f"{layout} differs from one rank"


def test_steps_of_many_rows(model: Models) -> None:
    layout = resolve({"pipeline.layers": (2, 3), "attention.tp": 2}, 4)
    assert is_equal(model("deep", EXACT), layout, LONG)


def test_several_steps_are_in_flight(model: Models) -> None:
    executor = make_executor(model("deep", EXACT).path, resolve({"pipeline.stages": 3}), EXACT)
    recorder = LockstepPipeline(executor)
    run_workload(executor, MIXED, recorder=recorder)
    assert recorder.most_in_flight == 4


PREFIX = tuple(range(1, 25))


def crowded(model: Model, layout: Layout, blocks: int, aborted: str | None) -> dict[str, list[int]]:
    """Requests that share a prefix and do not fit into the cache together; one is aborted while it runs."""
    checkpoint = checkpoint_at(model.path)
    shards = Shards(parse_config(checkpoint.config), layout)
    limits = RankCapacity(blocks, LIMITS.block_size, 4, 64)
    executor = LockstepExecutor(checkpoint, shards, EXACT, limits, torch.device("cpu"))
    config = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16, block_size=LIMITS.block_size)
    engine = Engine(LockstepPipeline(executor), config, (), vocab_size=101)
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    found: dict[str, list[int]] = {}
    for index in range(5):
        engine.add_request(str(index), [*PREFIX, index, index + 1], params)
        found[str(index)] = []
    steps = 0
    while engine.has_work:
        steps += 1
        if steps == 9 and aborted is not None:
            engine.abort(aborted)
        for output in engine.step():
            assert output.error is None
            found[output.request_id] += output.new_token_ids
    found["preemptions"] = [engine.stats().total.preemptions]
    found["cached"] = [engine.stats().total.cached_tokens]
    return found


def test_preemption_prefixes_and_abort_in_flight(model: Models) -> None:
    one = crowded(model("deep", EXACT), resolve({}), 80, None)
    for given, world in (({"pipeline.stages": 2}, 2), ({"pipeline.stages": 3}, 3), ({"pipeline.stages": 2}, 4)):
        found = crowded(model("deep", EXACT), resolve(given, world), 20, "3")
        for request in ("0", "1", "2", "4"):
            assert found[request] == one[request]
        assert found["3"] == one["3"][: len(found["3"])] and len(found["3"]) < 24
        assert found["cached"] > [0] and (world > 3 or found["preemptions"] > [0])


def wrong_mailbox(patch: pytest.MonkeyPatch) -> None:
    """The stream of stage 1 comes from itself: the message of another pair."""
    original = Transitions.receive

    def faulty(self: Transitions, transfer: PipelineTransfer, out: Tensor, peer: int) -> Tensor:
        found = original(self, transfer, out, peer)
        return found.flip(0) if transfer.item == "stream" else found

    patch.setattr(Transitions, "receive", faulty)


def stale_stream(patch: pytest.MonkeyPatch) -> None:
    """A stage goes on with the rows of the step before, where these have the same shape."""
    original, last = Transitions.receive, dict[int, Tensor]()

    def faulty(self: Transitions, transfer: PipelineTransfer, out: Tensor, peer: int) -> Tensor:
        found = original(self, transfer, out, peer).clone()
        before = last.get(id(self))
        last[id(self)] = found
        return before if transfer.item == "stream" and before is not None and before.shape == found.shape else found

    patch.setattr(Transitions, "receive", faulty)


def ids_too_early(patch: pytest.MonkeyPatch) -> None:
    """The first stage does not wait for the ids of the step before."""
    original = SampledIds.take
    patch.setattr(SampledIds, "take", lambda self, below: original(self, below - 1))


def ids_of_another_batch(patch: pytest.MonkeyPatch) -> None:
    """The first stage gives ids to the slots of another step."""
    original = SampledIds._take

    def faulty(self: SampledIds, slots: NDArray[np.int64]) -> None:
        original(self, slots)
        drawn = torch.from_numpy(slots[slots >= 0])
        self._last_ids[drawn] = self._last_ids.roll(1)[drawn]

    patch.setattr(SampledIds, "_take", faulty)


def buffer_reused_early(patch: pytest.MonkeyPatch) -> None:
    """What is sent changes before the next stage has taken it."""
    original = Transitions.send

    def faulty(self: Transitions, transfer: PipelineTransfer, x: Tensor, peer: int) -> None:
        changed = x.clone()
        changed[-1:] = 0
        original(self, transfer, changed if transfer.item == "stream" else x, peer)

    patch.setattr(Transitions, "send", faulty)


@pytest.mark.parametrize(
    "fault", [wrong_mailbox, stale_stream, ids_too_early, ids_of_another_batch, buffer_reused_early]
)
def test_injected_faults_are_seen(
    fault: Callable[[pytest.MonkeyPatch], None], model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, layout = model("deep", EXACT), resolve({"pipeline.stages": 2})
    assert is_equal(one, layout)
    fault(monkeypatch)
    executor = make_executor(one.path, layout, EXACT)
    try:
        found = run_workload(executor, MIXED, recorder=LockstepPipeline(executor))
    except AssertionError:
        return
    assert not same_bits(found, one.reference)
