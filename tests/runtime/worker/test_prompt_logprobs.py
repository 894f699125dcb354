"""Log-probabilities of a prompt's own tokens: against transformers, under layouts, chunks, cache and preemption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.fakes.uncounted import Uncounted
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import RequestOutput
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LAYOUTS: dict[str, tuple[int, dict[str, object]]] = {
    "one rank": (1, {}),
    "tp 2": (2, {"attention.tp": 2}),
    "all different": (4, {"attention.tp": 2, "o_proj.tp": 4, "dense.tp": 1, "embedding.tp": 4, "lm_head.tp": 4}),
    "dp 2": (2, {"attention.tp": 1, "dense.tp": 2, "lm_head.tp": 2}),
}
LONG = tuple(3 + 17 * i % 127 for i in range(45))
SHORT = (5, 9, 2)
SCORED = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=2, prompt_logprobs=3)
PLAIN = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    path = tmp_path_factory.mktemp("scored")
    made.save_pretrained(path)
    return path, made


class Watched(Uncounted):
    """An executor that counts the prompt rows of its steps."""

    def __init__(self, executor: LockstepExecutor, blocks: int) -> None:
        self.executor, self.num_blocks, self.layout = executor, blocks, executor.layout
        self.prompt_rows: list[int] = []
        self.most_logits = 0

    def step(self, plan: StepPlan) -> StepResult:
        runs = [run for group in plan.groups for run in group.every_run()]
        self.prompt_rows.append(sum(len(run.ids) for run in runs))
        self.most_logits = max(self.most_logits, sum(len(run.targets) + run.sample for run in runs))
        return self.executor.step(plan)

    def close(self) -> None:
        self.executor.close()


def executor_of(path: Path, layout: str) -> LockstepExecutor:
    world, given = LAYOUTS[layout]
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve(given, world))
    limits = RankCapacity(num_blocks=64, block_size=4, max_num_seqs=8, max_model_len=96)
    return LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))


def run(
    executor: LockstepExecutor,
    requests: Sequence[tuple[Sequence[int], SamplingParams]],
    *,
    budget: int = 64,
    blocks: int = 64,
    seqs: int = 8,
) -> tuple[list[list[RequestOutput]], Watched]:
    """Every request's records, all at once."""
    watched = Watched(executor, blocks)
    config = EngineConfig(
        max_model_len=96, max_num_seqs=seqs, max_num_batched_tokens=budget, block_size=4, prefill_stretch=0
    )
    engine = Engine(watched, config, ())
    for index, (prompt, params) in enumerate(requests):
        engine.add_request(str(index), prompt, params)
    found: list[list[RequestOutput]] = [[] for _ in requests]
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            found[int(output.request_id)].append(output)
    return found, watched


def expected(model: LlamaForCausalLM, prompt: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([prompt])).logits[0].double(), -1)


def check(records: Sequence[RequestOutput], model: LlamaForCausalLM, prompt: Sequence[int]) -> None:
    reference = expected(model, prompt)
    scored = records[0].prompt_logprobs
    assert [one.token_id for one in scored] == list(prompt[1:])
    assert all(not later.prompt_logprobs for later in records[1:])
    for position, one in enumerate(scored):
        row = reference[position]
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=2e-4)
        assert one.rank == 1 + int((row > row[one.token_id]).sum())
        top = row.topk(3)
        assert [token for token, _ in one.top] == top.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(top.values.tolist(), abs=2e-4)
    assert [record.logprobs[0].token_id for record in records] == [record.new_token_ids[0] for record in records]
    assert len(records[0].logprobs[0].top) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [9, 64])
def test_a_prompt_is_scored_as_transformers_scores_it(
    model: tuple[Path, LlamaForCausalLM], layout: str, budget: int
) -> None:
    path, reference = model
    requests = [(LONG, SCORED), (SHORT, PLAIN), (LONG[:20], SCORED), ((7,), SCORED)]
    found, watched = run(executor_of(path, layout), requests, budget=budget)
    check(found[0], reference, LONG)
    check(found[2], reference, LONG[:20])
    assert found[3][0].prompt_logprobs == [] and found[1][0].prompt_logprobs == []
    plain, _ = run(executor_of(path, layout), [(prompt, PLAIN) for prompt, _ in requests], budget=budget)
    for one, two in zip(found, plain, strict=True):
        assert [record.new_token_ids for record in one] == [record.new_token_ids for record in two]
    assert max(watched.prompt_rows) > 1


def test_cached_blocks_are_computed_again_where_scores_are_wanted(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, reference = model
    executor = executor_of(path, "one rank")
    engine_config = EngineConfig(max_model_len=96, max_num_seqs=8, max_num_batched_tokens=64, block_size=4)
    engine = Engine(executor, engine_config, ())
    outputs: dict[str, list[RequestOutput]] = {}
    for name, params in (("warm", PLAIN), ("scored", SCORED), ("hit", PLAIN)):
        engine.add_request(name, LONG, params)
        while engine.has_work:
            for output in engine.step():
                outputs.setdefault(name, []).append(output)
    check(outputs["scored"], reference, LONG)
    assert outputs["scored"][0].cached_tokens == 0 and outputs["hit"][0].cached_tokens == 44
    assert [o.new_token_ids for o in outputs["hit"]] == [o.new_token_ids for o in outputs["scored"]]


def test_a_preempted_prompt_is_scored_once(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, reference = model
    old = [((11 + i, 3, 5), SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)) for i in range(3)]
    found, _ = run(executor_of(path, "one rank"), [*old, (LONG, SCORED)], budget=8, blocks=22)
    check(found[3], reference, LONG)
    assert found[3][-1].preemptions > 0


def test_logits_of_a_step_are_bounded(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, reference = model
    found, watched = run(executor_of(path, "one rank"), [(LONG, SCORED), (LONG[::-1], SCORED)], seqs=2)
    check(found[0], reference, LONG)
    check(found[1], reference, LONG[::-1])
    assert watched.most_logits <= 16 + 2


def test_a_prompt_with_a_logit_that_is_no_number_fails_alone(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, reference = model
    executor = executor_of(path, "one rank")
    decoder: Any = executor.runners[0].decoder
    head, steps = decoder.forward, list[int]()

    def spoiled(*given: Any) -> torch.Tensor:
        logits: torch.Tensor = head(*given)
        steps.append(len(logits))
        if len(steps) == 1:
            logits[1, 4] = torch.nan
        return logits

    decoder.forward = spoiled
    watched = Watched(executor, 64)
    engine = Engine(
        watched, EngineConfig(max_model_len=96, max_num_seqs=8, max_num_batched_tokens=64, block_size=4), ()
    )
    engine.add_request("bad", LONG[:6], SCORED)
    engine.add_request("good", SHORT, PLAIN)
    records = [output for _ in range(4) for output in engine.step()]
    bad = [record for record in records if record.request_id == "bad"]
    assert len(bad) == 1 and bad[0].error is not None and bad[0].prompt_logprobs == []
    good = [token for record in records if record.request_id == "good" for token in record.new_token_ids]
    assert good[0] == int(expected(reference, SHORT)[-1].argmax()) and len(good) == 3
