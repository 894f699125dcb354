"""Within one layout a request's tokens and logits are the same bits alone, in any batch, at any row, with any chunk
size, after a prefix hit or a miss, preempted or not; with operations one by one and with step programs.

The short suite has each form at each size, greedy and drawn in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.support.exact_model import write_random
from tests.support.fakes.uncounted import Uncounted
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, Prompt

WIDE = {"hidden_size": 288, "intermediate_size": 408, "head_dim": 32, "vocab_size": 501, "max_position_embeddings": 256}
TARGET: Prompt = tuple(7 + 13 * i % 480 for i in range(45))
SAME_PREFIX: Prompt = (*TARGET[:40], 3, 1, 4)
OTHERS: tuple[Prompt, ...] = tuple(tuple((31 * s + 17 * i * i) % 499 for i in range(3 + 11 * s)) for s in range(7))
NEW = 18
BLOCK = 16
DRAWN = SamplingParams(temperature=0.9, top_p=0.95, seed=11, max_tokens=NEW, ignore_eos=True)
GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(tmp_path_factory.mktemp("wide"), "biased", sizes=WIDE))


@dataclass
class Bench:
    """One layout of the model; `run` gives what the target request got among others."""

    executor: LockstepExecutor
    params: SamplingParams

    def run(
        self,
        others: Sequence[Prompt] = (),
        *,
        before: bool = False,
        budget: int = 256,
        blocks: int = 64,
        cache: bool = False,
        first: Sequence[Prompt] = (),
    ) -> GreedyOutput:
        """`others` run beside the target (admitted before it if `before`), `first` to their end before it."""
        recorder = LogitsRecorder(self.executor)
        config = EngineConfig(
            max_model_len=128,
            max_num_seqs=8,
            max_num_batched_tokens=budget,
            block_size=BLOCK,
            enable_prefix_caching=cache,
            prefill_stretch=0,  # what a step carries, and so which request is preempted, depends on no clock
        )
        engine = Engine(_Pool(recorder, blocks), config, ())
        for index, prompt in enumerate(first):
            engine.add_request(f"first {index}", prompt, GREEDY)
            while engine.has_work:
                engine.step()
        prompts = {f"other {index}": prompt for index, prompt in enumerate(others)}
        order = {**prompts, "target": TARGET} if before else {"target": TARGET, **prompts}
        for name, prompt in order.items():
            engine.add_request(name, prompt, self.params)
        found, self.preempted, self.cached = GreedyOutput(), 0, 0
        while engine.has_work:
            for output in engine.step():
                if output.request_id == "target":
                    found.tokens.extend(output.new_token_ids)
                    self.preempted, self.cached = output.preemptions, output.cached_tokens
        found.logits = recorder.logits[TARGET][-NEW:]
        return found


class _Pool(Uncounted):
    """The executor, with a KV pool of another size."""

    def __init__(self, recorder: LogitsRecorder, num_blocks: int) -> None:
        self.recorder, self.num_blocks = recorder, num_blocks
        self.layout, self.step, self.close = recorder.layout, recorder.step, recorder.close


FORMS = {
    "eager-fp32": Numerics(torch.float32),
    "eager-bf16": Numerics(torch.bfloat16),
    "program-fp32": Numerics(torch.float32),
    "program-bf16": Numerics(torch.bfloat16, compress_weights=False),
    "program-bf16-12bit": Numerics(torch.bfloat16, compress_weights=True),
    "program-int8": Numerics(torch.bfloat16, quantization="int8"),
    "program-int4": Numerics(torch.bfloat16, quantization="int4"),
    "program-int4-rows8": Numerics(torch.bfloat16, quantization="int4", int8_activations=True),
}


def cases() -> list[Any]:
    """Every form at every size, greedy and drawn; one of the two in the short suite, so that it has any two."""
    kinds = itertools.product(enumerate(FORMS), (1, 2, 3), enumerate({"greedy": GREEDY, "drawn": DRAWN}.items()))
    return [
        pytest.param(form, tp, params, id=f"{form}-tp{tp}-{name}", marks=[pytest.mark.long] * ((at + tp + kind) % 2))
        for (at, form), tp, (kind, (name, params)) in kinds
    ]


def executor_of(form: str, tp: int, checkpoint: Checkpoint) -> LockstepExecutor:
    # modules of other sizes than attention's, so that rows are scattered between them
    sizes = {"attention.tp": tp, "o_proj.tp": 1 if tp == 2 else tp, "lm_head.tp": 1 if tp == 3 else tp}
    shards = Shards(parse_config(checkpoint.config), resolve(sizes, tp))
    # blocks of 16 tokens are what a packed cache holds
    limits = RankCapacity(num_blocks=64, block_size=BLOCK, max_num_seqs=8, max_model_len=128)
    if form.startswith("program"):
        need("step", "comm")
        return ProgramExecutor(checkpoint, shards, FORMS[form], limits)
    return LockstepExecutor(checkpoint, shards, FORMS[form], limits, torch.device("cpu"))


@pytest.mark.parametrize(("form", "tp", "params"), cases())
def test_a_request_does_not_see_its_neighbours(
    form: str, tp: int, params: SamplingParams, checkpoint: Checkpoint
) -> None:
    with closing(executor_of(form, tp, checkpoint)) as executor:
        sees_no_neighbours(Bench(executor, params))


def sees_no_neighbours(bench: Bench) -> None:
    alone = bench.run()
    assert len(alone.tokens) == len(alone.logits) == NEW
    cases: dict[str, GreedyOutput] = {
        "in a batch": bench.run(OTHERS),
        "in the last rows of a batch": bench.run(OTHERS, before=True),
        "in chunks of 8 rows": bench.run(budget=8),
        "in chunks, in a batch": bench.run(OTHERS[:4], before=True, budget=13),
    }
    cases["preempted"] = bench.run(OTHERS, before=True, blocks=9)
    assert bench.preempted > 0
    cases["on a cached prefix"] = bench.run(OTHERS[:2], cache=True, first=[SAME_PREFIX])
    assert bench.cached == 32
    cases["in a batch that shares its prefix"] = bench.run([SAME_PREFIX, *OTHERS[:3]], before=True, cache=True)
    for name, found in cases.items():
        assert found.tokens == alone.tokens, name
        assert torch.equal(torch.stack(found.logits), torch.stack(alone.logits)), name
