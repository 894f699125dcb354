"""Verify: does this layout give what one rank gives, for this model? Tokens, logits through the engine, then modules.

Ranks run in lockstep in this process; the caller may pass executors of real processes for the same layout, whose
tokens are compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from weft.base.plural import counted
from weft.base.settings import EngineConfig
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.model.checkpoint import Checkpoint
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.slots import SlotMap
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.compare import Agreement, compare, compare_tokens, tolerance_of
from weft.tools.verify.record import GreedyOutput, LogitsRecorder, Prompt, greedy_tokens, outcomes
from weft.tools.verify.trace import ModuleDifference, trace

Verdict = Literal["agrees", "differs", "undecided"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`lockstep`: tokens and logits against one rank. `served`: tokens of each replica's real processes against one
    rank, where they ran. `module`: the first module that differs, looked for where something does."""

    lockstep: Agreement
    served: tuple[Agreement, ...]
    module: ModuleDifference | None

    @property
    def verdict(self) -> Verdict:
        """`undecided`: nothing differs, but too few tokens were decided to say that it agrees."""
        every = (self.lockstep, *self.served)
        if not all(each.agrees for each in every):
            return "differs"
        return "agrees" if all(each.enough for each in every) else "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """One model under one layout, of one replica. `progress` receives one line for each phase."""

    checkpoint: Checkpoint
    config: ModelConfig
    layout: Layout
    engine: EngineConfig
    numerics: Numerics
    device: torch.device
    progress: Callable[[str], None]
    slot_maps: tuple[tuple[int, SlotMap], ...] = ()
    """Expert of every slot, for layers whose experts are not assigned in order."""

    def run(self, prompts: Sequence[Prompt], max_tokens: int, served: Sequence[Executor] = ()) -> VerifyReport:
        """Compares all prompts, max_tokens greedy tokens each. Prompts must differ and have two tokens or more.

        `served`: each replica's processes."""
        tolerance = tolerance_of(self.numerics)
        self.progress("loading one rank")
        alone = self._executor(resolve({}, num_experts=self.config.num_experts), prompts, max_tokens)
        self.progress(f"running {counted(len(prompts), 'prompt')}, {counted(max_tokens, 'token')} each, on one rank")
        reference = self._outcomes(alone, prompts, max_tokens)
        self.progress(f"loading {counted(self.layout.world, 'rank')} in lockstep")
        ranks = self._executor(self.layout, prompts, max_tokens)
        self.progress("running the layout")
        agreement = compare(reference, self._outcomes(ranks, prompts, max_tokens), tolerance)
        module = None if agreement.agrees else trace(alone, ranks, max(prompts, key=len), tolerance)
        processes = tuple(self._served(one, reference, prompts, max_tokens, tolerance) for one in served)
        return VerifyReport(agreement, processes, module)

    def _executor(self, layout: Layout, prompts: Sequence[Prompt], max_tokens: int) -> LockstepExecutor:
        size = self.engine.tokens_per_block
        blocks = sum(-(-(len(prompt) + max_tokens) // size) + 1 for prompt in prompts)
        # As served: some rotary embeddings follow from the longest context.
        longest = self.engine.max_model_len or self.config.context
        limits = RankCapacity(blocks, size, self.engine.max_num_seqs, longest)
        shards = Shards(self.config, layout, self.slot_maps if layout is self.layout else ())
        return LockstepExecutor(self.checkpoint, shards, self.numerics, limits, self.device)

    def _engine(self, executor: Executor, prompts: Sequence[Prompt], max_tokens: int) -> Engine:
        from_config = {name: getattr(self.engine, name) for name in self.engine.__dataclass_fields__}
        config = EngineConfig(**{**from_config, "max_model_len": self._max_len(prompts, max_tokens)})
        return Engine(executor, config, (), vocab_size=self.config.vocab_size)

    def _max_len(self, prompts: Sequence[Prompt], max_tokens: int) -> int:
        return max(len(prompt) for prompt in prompts) + max_tokens

    def _outcomes(self, executor: LockstepExecutor, prompts: Sequence[Prompt], max_tokens: int) -> list[GreedyOutput]:
        recorder = LogitsRecorder(executor)
        return outcomes(self._engine(recorder, prompts, max_tokens), recorder, prompts, max_tokens)

    def _served(
        self,
        served: Executor,
        reference: Sequence[GreedyOutput],
        prompts: Sequence[Prompt],
        max_tokens: int,
        tolerance: float,
    ) -> Agreement:
        self.progress(f"running {counted(self.layout.world, 'process', 'es')}, as served")
        engine = self._engine(served, prompts, max_tokens)
        return compare_tokens(reference, greedy_tokens(engine, prompts, max_tokens), tolerance)
