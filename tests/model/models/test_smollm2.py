"""The embedded model in fp32 under layouts in which modules differ: the tokens of one rank, and of transformers; and in
bf16, as it is served, its logits against transformers in fp32.

Tokens may part only where the reference's own top-2 gap lies below the tolerance of the dtype.
"""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import read_once
from tests.support.program_executor import ProgramExecutor
from weft.base.settings import EngineConfig
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint, embedded_model, open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.compare import RELATIVE_TOLERANCE, compare
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, Prompt, outcomes

TEXTS = ("The capital of France is", "Once upon a time, in a village at the foot of a mountain, there lived", "2 + 2")
TOKENS = 8
TOLERANCE, BF16_TOLERANCE = RELATIVE_TOLERANCE[torch.float32], RELATIVE_TOLERANCE[torch.bfloat16]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"attention.tp": 2},
    "tp3": {"attention.tp": 3},
    "tp4-uneven": {"attention.tp": 4},
    "dp2": {"attention.dp": 2},
    "dp2-all-shared": {"attention.dp": 2, "o_proj.tp": 2, "dense.tp": 2, "embedding.tp": 2, "lm_head.tp": 2},
    "dp3-some-shared": {"attention.dp": 3, "o_proj.tp": 3, "lm_head.tp": 3},
    "tp2-dense1-head2": {"attention.tp": 2, "dense.tp": 1, "lm_head.tp": 2, "embedding.tp": 1},
    "tp2-dp2-o4": {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 2, "lm_head.tp": 4},
    "tp2-dp2-dense4": {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 1, "dense.tp": 4, "embedding.tp": 4},
    "tp3-dp2-non-multiples": {
        "attention.tp": 3, "attention.dp": 2, "o_proj.tp": 2, "dense.tp": 6, "embedding.tp": 2, "lm_head.tp": 6,
    },
    "tp2-balanced": {"attention.tp": 2, "attention.split": "balanced"},
}  # fmt: skip
LONG = {"tp3", "dp2", "dp3-some-shared", "tp2-dense1-head2", "tp2-dp2-o4", "tp2-dp2-dense4"}
"""Whose parts others of `LAYOUTS` have, too; the exact model has these layouts in the short suite."""


@pytest.fixture(scope="module")
def path() -> Path:
    return embedded_model(print)


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return open_checkpoint(path)


@pytest.fixture(scope="module")
def prompts(checkpoint: Checkpoint) -> list[Prompt]:
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    return [tuple(tokenizer.encode(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def one_rank(checkpoint: Checkpoint, prompts: list[Prompt]) -> list[GreedyOutput]:
    return run(checkpoint, resolve({}), prompts)


def run(checkpoint: Checkpoint, layout: Layout, prompts: list[Prompt]) -> list[GreedyOutput]:
    shards = Shards(parse_config(checkpoint.config), layout)
    limits = RankCapacity(num_blocks=16, block_size=16, max_num_seqs=4, max_model_len=64)
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    recorder = LogitsRecorder(executor)
    config = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=12)
    return outcomes(Engine(recorder, config, ()), recorder, prompts, TOKENS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in LAYOUTS]
)
def test_layout_gives_the_tokens_of_one_rank(
    name: str, checkpoint: Checkpoint, prompts: list[Prompt], one_rank: list[GreedyOutput]
) -> None:
    given = LAYOUTS[name]
    world = given.get("attention.tp", 1) * given.get("attention.dp", 1)
    agreement = compare(one_rank, run(checkpoint, resolve(given, world), prompts), TOLERANCE)
    assert agreement.agrees, agreement
    assert agreement.tokens == len(TEXTS) * TOKENS


@pytest.fixture(scope="module")
def reference(path: Path, prompts: list[Prompt], one_rank: list[GreedyOutput]) -> list[GreedyOutput]:
    """transformers in fp32 over the prompts and the tokens that one rank gave."""
    with warnings.catch_warnings(), read_once():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    found = []
    for prompt, outcome in zip(prompts, one_rank, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *outcome.tokens[:-1]]])).logits[0, len(prompt) - 1 :]
        found.append(GreedyOutput(logits.argmax(-1).tolist(), list(logits)))
    return found


def test_one_rank_gives_the_tokens_of_transformers(one_rank: list[GreedyOutput], reference: list[GreedyOutput]) -> None:
    agreement = compare(reference, one_rank, TOLERANCE)
    assert agreement.agrees, agreement


@pytest.mark.parametrize("tp", [1, 2])
def test_bf16_stays_within_its_tolerance_of_fp32(
    tp: int, checkpoint: Checkpoint, prompts: list[Prompt], reference: list[GreedyOutput]
) -> None:
    """Step programs, each token after the reference's own text, so that every position is compared."""
    shards = Shards(parse_config(checkpoint.config), resolve({"attention.tp": tp}))
    limits = RankCapacity(num_blocks=64, block_size=16, max_num_seqs=8, max_model_len=64)
    config = EngineConfig(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=40)
    forced = [(*prompt, *out.tokens[:n]) for prompt, out in zip(prompts, reference, strict=True) for n in range(TOKENS)]
    wanted = [GreedyOutput([out.tokens[n]], [out.logits[n]]) for out in reference for n in range(TOKENS)]
    with closing(ProgramExecutor(checkpoint, shards, Numerics(torch.bfloat16), limits)) as executor:
        recorder = LogitsRecorder(executor)
        agreement = compare(wanted, outcomes(Engine(recorder, config, ()), recorder, forced, 1), BF16_TOLERANCE)
    assert agreement.tokens == len(forced) and agreement.agrees, agreement
    assert agreement.largest_difference > TOLERANCE, "this was not bf16"
