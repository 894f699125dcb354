"""The embedded model made a mixture of experts: the dense model's tokens, also while its experts move between ranks.

The first layers of the model alone are quick; the whole of it is part of the long version.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from tests.support.expert_moves import random_balancing
from weft.base.settings import EngineConfig
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint, embedded_model, open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.experts.balancing.expert_balancing import ExpertBalancing
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.upcycle.routers import Skew
from weft.tools.upcycle.upcycle import Recipe, upcycle
from weft.tools.verify.compare import RELATIVE_TOLERANCE, compare
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, Prompt, outcomes

TEXTS = ("The capital of France is", "Once upon a time, in a village at the foot of a mountain, there lived", "2 + 2")
TOKENS = 12
EXPERTS, TOP_K, SLOTS = 3, 2, 4
SAME_ANSWERS = 1e-5
"""Largest difference of a logit, as a share of the row's largest, in fp32."""


def first_layers(checkpoint: Checkpoint, layers: int) -> Checkpoint:
    """The model cut off after `layers` layers."""

    def kept(name: str) -> bool:
        number = name.removeprefix("model.layers.").partition(".")[0]
        return not number.isdecimal() or int(number) < layers

    tensors = {name: info for name, info in checkpoint.tensors.items() if kept(name)}
    config = {**checkpoint.config, "num_hidden_layers": layers}
    return msgspec.structs.replace(checkpoint, config=config, tensors=tensors)


def run(
    checkpoint: Checkpoint, given: dict[str, object], prompts: list[Prompt], balancing: ExpertBalancing | None = None
) -> list[GreedyOutput]:
    config = parse_config(checkpoint.config)
    staged = 0 if balancing is None else SLOTS // 2
    limits = RankCapacity(16, 16, 4, 64, staged_slots=staged, count_experts=balancing is not None)
    shards = Shards(config, resolve(given, num_experts=config.num_experts))
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    recorder = LogitsRecorder(executor)
    engine = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=12)
    return outcomes(Engine(recorder, engine, (), balancing=balancing), recorder, prompts, TOKENS)


@pytest.mark.parametrize("layers", [2, pytest.param(30, marks=pytest.mark.long)])
def test_the_tokens_of_the_dense_model(layers: int, tmp_path: Path) -> None:
    dense = first_layers(open_checkpoint(embedded_model(print)), layers)
    tokenizer = Tokenizer.from_checkpoint(dense)
    prompts = [tuple(tokenizer.encode(text)) for text in TEXTS]
    upcycle(dense, Recipe(EXPERTS, TOP_K, Skew(1.2), 0, torch.float32), tmp_path / "mixture", print)
    mixture = open_checkpoint(tmp_path / "mixture")
    wanted = run(dense, {}, prompts)
    alone = compare(wanted, run(mixture, {}, prompts), SAME_ANSWERS)
    assert alone.agrees and alone.tokens == len(TEXTS) * TOKENS, alone

    spread: dict[str, object] = {"attention.dp": 2, "experts.ep": 2, "experts.slots": SLOTS}
    balancing = random_balancing(
        SlotShape(EXPERTS, SLOTS, 2), tuple(range(layers)), pace=TransferRate(parts=3, parts_per_step=8)
    )
    moved = compare(wanted, run(mixture, spread, prompts, balancing), RELATIVE_TOLERANCE[torch.float32])
    assert moved.agrees and moved.tokens == len(TEXTS) * TOKENS, moved
    assert balancing.stats().layers_switched >= 2
