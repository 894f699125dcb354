"""Work per rank against what the real decoder multiplies, and expected maxima of routing against draws of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.equivalence.harness import LIMITS, checkpoint_at, make_executor
from tests.support.exact_model import write_random
from weft.base.errors import LayoutError
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.engine.core.engine import Engine
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit, resolve_for
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.runtime.worker import lockstep_executor
from weft.tools.explain.work.routing import fullest_rows, fullest_touched
from weft.tools.explain.work.work import CountedStep, RankProducts, work_of
from weft.tools.verify.record import LogitsRecorder

FP64 = Numerics(torch.float64)
Multiplied = Counter[tuple[str, int, int]]
"""(kind of product, rows, multiplications of a row) -> how often, on all ranks together."""
PROMPT = 6
NAMES = ("linear", "per_head", "expert_answers", "attention", "partial_attention")
MODELS = ("biased", "tied", "experts", "latent")


@contextmanager
def recorded() -> Iterator[list[Multiplied]]:
    """What the operations of all ranks multiply; a new counter begins where one is appended."""
    found: list[Multiplied] = [Counter()]
    inner = {name: getattr(TorchOps, name) for name in NAMES}

    def linear(self: TorchOps, x: Any, weight: Any, bias: Any) -> Any:
        found[-1]["product", x.shape[0], weight.numel()] += 1
        return inner["linear"](self, x, weight, bias)

    def per_head(self: TorchOps, x: Any, weight: Any, heads: int) -> Any:
        found[-1]["product", x.shape[0], weight.numel()] += 1
        return inner["per_head"](self, x, weight, heads)

    def expert_answers(self: TorchOps, *args: Any) -> Any:
        found.append(Counter())  # how many rows choose an expert is not known beforehand
        answers = inner["expert_answers"](self, *args)
        found.pop()
        return answers

    def attends(name: str) -> Any:
        def attention(self: TorchOps, q: Any, *args: Any) -> Any:
            found[-1]["attention", q.shape[0], q.shape[1]] += 1
            return inner[name](self, q, *args)

        return attention

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchOps, "linear", linear)
        patch.setattr(TorchOps, "per_head", per_head)
        patch.setattr(TorchOps, "expert_answers", expert_answers)
        for name in ("attention", "partial_attention"):
            patch.setattr(TorchOps, name, attends(name))
        yield found


def expected(shards: Shards, step: CountedStep) -> Multiplied:
    """The same by `work_of`, every rank of the world for itself."""
    found: Multiplied = Counter()
    for work in all_ranks(shards, step):
        for product in work.products:
            if product.module != "experts" and product.rows:
                found["product", int(product.rows), product.depth * product.columns] += product.times
        for reads in work.attention:
            if reads.rows:
                found["attention", reads.rows, reads.heads] += reads.times
    return found


def all_ranks(shards: Shards, step: CountedStep) -> Iterator[RankProducts]:
    """Of every rank: that of the first one with the same weights and rows."""
    layout = shards.layout
    table, sampled = step.tables(shards)
    works = {work.rank: work for work in work_of(shards, 8, step)}
    sizes = sorted({*layout.sizes.values(), layout.group_size})

    def alike(rank: int) -> tuple[object, ...]:
        place = rank % layout.stage_size
        own = [t.count(place, place + 1) for t in (table, sampled)]
        starts = [(place - place % size, size) for size in sizes]
        counts = [(t.count(first, first + size), place - first) for t in (table, sampled) for first, size in starts]
        return (shards.stage_of(rank), *own, *counts)

    by_place = {alike(rank): work for rank, work in works.items()}
    for rank in range(layout.stage_size * layout.pipeline.stages):
        yield by_place[alike(rank)]


def random_layout(draw: random.Random, config: ModelConfig) -> Layout:
    while True:
        tp, dp, stages = draw.choice((1, 2, 3, 4)), draw.choice((1, 2, 3)), draw.choice((1, 1, 2))
        sizes = divisors(tp * dp)
        given: dict[str, object] = {"attention.tp": tp, "attention.dp": dp, "pipeline.stages": stages}
        given |= {f"{name}.tp": draw.choice(sizes) for name in ("o_proj", "dense", "embedding", "lm_head")}
        given["attention.kv_split"] = draw.choice((1, 1, *divisors(tp)))
        if config.moe:
            given["experts.tp"] = draw.choice(sizes)
            given["experts.ep"] = draw.choice(sizes)
            given["shared_experts.tp"] = draw.choice(sizes)
            given["experts.dispatch"] = draw.choice(("all_gather", "all_to_all"))
        try:
            layout = resolve_for(config, given)
            check_fit(layout, config)
        except LayoutError:
            continue
        return layout


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("work") / request.param, request.param)


def _check(path: Path, layout: Layout, batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:  # the operations whose products are recorded
        patch.setattr(lockstep_executor, "make_ops", lambda numerics, device, **_: TorchOps(numerics, device))
        executor = make_executor(path, layout, FP64)
    shards = executor.shards
    config = EngineConfig(
        max_model_len=LIMITS.max_model_len, max_num_seqs=4, max_num_batched_tokens=64, block_size=LIMITS.block_size,
        prefill_stretch=0,
    )  # fmt: skip
    engine = Engine(LogitsRecorder(executor), config, (), vocab_size=101)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    for number in range(batch * layout.attention.dp):
        engine.add_request(str(number), [number + 2] * PROMPT, params)
    with recorded() as steps:
        while engine.has_work:
            engine.step()
            steps.append(Counter())
    seen = [Counter({key: n for key, n in step.items() if key[1]}) for step in steps if step]
    if batch == 1:
        differs = _differs(expected(shards, CountedStep(PROMPT, PROMPT, 0)), seen[0])
        # gathered keys are attended to in several calls
        shared = layout.kv_owners > 1
        assert {key: n for key, n in differs.items() if not (shared and key[0] == "attention")} == {}, layout
    assert _differs(expected(shards, CountedStep(batch, PROMPT)), seen[-1]) == {}, layout


def _differs(wanted: Multiplied, seen: Multiplied) -> dict[tuple[str, int, int], tuple[int, int]]:
    return {key: (wanted[key], seen[key]) for key in {*wanted, *seen} if wanted[key] != seen[key]}


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.long) for first in range(6, 126, 6))])
def test_work_is_what_the_decoder_multiplies(model: Path, first: int) -> None:
    config = parse_config(checkpoint_at(model).config)
    for seed in range(first, first + 6):
        draw = random.Random(seed)
        layout = random_layout(draw, config)
        # with stages the engine may spread the requests of a group over several steps
        _check(model, layout, draw.choice((1, 2)) if layout.pipeline.stages == 1 else 1)


def test_keys_are_read_once_a_request(model: Path) -> None:
    config = parse_config(checkpoint_at(model).config)
    for seed in range(40):
        shards = Shards(config, random_layout(random.Random(seed), config))
        for work in work_of(shards, 8, CountedStep(3, 50)):
            read = sum(reads.nbytes * reads.times for reads in work.attention)
            assert read == pytest.approx(3 * 50 * shards.kv_bytes_of_owned(work.rank, 8) / shards.layout.kv_owners)
            alone = 3 * 50 * config.num_heads / shards.layout.attention.tp
            assert sum(reads.multiplications for reads in work.attention) > 0 < alone


@pytest.mark.parametrize(
    ("rows", "experts", "top_k", "ranks"),
    [(4, 512, 10, 4), (64, 512, 10, 4), (8, 128, 8, 8), (16, 8, 2, 4), (700, 64, 6, 8)],
)
def test_fullest_expert_rank_is_the_largest_of_draws(rows: int, experts: int, top_k: int, ranks: int) -> None:
    draw = np.random.default_rng(rows)
    touched, chosen = [], []
    for _ in range(300):
        choices = draw.random((rows, experts)).argpartition(top_k, axis=1)[:, :top_k]
        owners = choices // (experts // ranks)
        touched.append(max(len(np.unique(choices[owners == rank])) for rank in range(ranks)))
        chosen.append(np.bincount(owners.ravel(), minlength=ranks).max())
    assert fullest_touched(rows, experts, top_k, ranks) == pytest.approx(np.mean(touched), rel=0.03)
    assert fullest_rows(rows, experts, top_k, ranks) == pytest.approx(np.mean(chosen), rel=0.03)
    assert fullest_touched(rows, experts, top_k, ranks) > 0.99 * experts / ranks * (1 - (1 - top_k / experts) ** rows)


def test_one_rank_has_all_choices() -> None:
    assert fullest_rows(7, 5, 2, 1) == 14
    assert fullest_touched(1, 8, 3, 1) == pytest.approx(3)
