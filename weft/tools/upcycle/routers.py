"""Routers with a wanted skew: rows for which a layer's inputs choose experts about as often as asked.

A router has no bias, but the inputs of an MLP (after its norm) have a mean: a row along the mean gives each expert a
constant, the logarithm of its wanted share, and a random direction across it, scaled to the inputs' spread, makes the
choice of a row its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.base.errors import UsageError
from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint
from weft.model.layers import Norm
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity

SPREAD = 1.28
"""Standard deviation of a Gumbel variable: log shares plus Gumbel noise choose in proportion to the shares."""
SAMPLE = (
    "The loom stands by the window. Every morning the weaver counts her threads, warp and weft, and writes the number "
    "into a book. In 1804 a machine read patterns from punched cards; def shuttle(row): return row[::-1]. How many "
    "colours does the river have? Seven, said the child: 1, 2, 3, 5, 8, 13. Le tisserand parle peu. Water, salt, iron!"
)


@dataclass(frozen=True, slots=True)
class Skew:
    """Wanted shares of the experts: uniform, or Zipf's: the i-th busiest in proportion to 1 / i^exponent."""

    exponent: float = 0.0

    @classmethod
    def parse(cls, word: str) -> Skew:
        """'none' or 'zipf:1.2'."""
        kind, _, number = word.partition(":")
        if kind == "none" and not number:
            return cls()
        try:
            exponent = float(number)
        except ValueError:
            exponent = -1.0
        if kind != "zipf" or not 0 <= exponent <= 10:
            raise UsageError(f"--skew {word}: legal: none, or zipf:EXPONENT with an exponent from 0 to 10")
        return cls(exponent)

    def shares(self, experts: int) -> Tensor:
        """[E], adding up to one."""
        weights = torch.arange(1, experts + 1, dtype=torch.float64) ** -self.exponent
        return weights / weights.sum()


def layer_inputs(checkpoint: Checkpoint, config: ModelConfig) -> list[Tensor]:
    """Per layer what its MLP takes on the sample text, [rows, hidden]: one prefill of the dense model."""
    ids = _sample_ids(checkpoint, config)
    size = len(ids)
    limits = RankCapacity(num_blocks=-(-size // 16), block_size=16, max_num_seqs=1, max_model_len=size)
    shards = Shards(config, resolve({}))
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    found: list[Tensor] = []
    decoder = executor.runners[0].decoder
    decoder.layers = tuple(replace(layer, dense_norm=_Watched(layer.dense_norm, found)) for layer in decoder.layers)
    params = SamplingParams(temperature=0.0, prompt_logprobs=0)
    blocks = list(range(1, limits.num_blocks + 1))
    # rows that are not sampled do not reach the last MLP: all are scored
    run = ScheduledRequest(slot=0, start=0, count=size, ids=ids, blocks=blocks, sample=True, targets=ids[1:])
    executor.step(StepPlan(0, [GroupPlan([NewRequest(0, ids, [], params, 0)], [run])]))
    executor.close()
    return found


def router_rows(inputs: list[Tensor], experts: int, skew: Skew, seed: int) -> list[Tensor]:
    """Per layer the router [E, hidden]; which expert is the busiest differs from layer to layer."""
    draw = torch.Generator().manual_seed(seed)
    wanted = skew.shares(experts).log()
    return [_rows(x.double(), wanted[torch.randperm(experts, generator=draw)], draw) for x in inputs]


def _rows(x: Tensor, log_shares: Tensor, draw: torch.Generator) -> Tensor:
    mean = x.mean(0)
    along = mean / mean.square().sum()
    across = torch.randn(len(log_shares), len(mean), generator=draw, dtype=torch.float64)
    across = across - (across @ mean)[:, None] * along
    across = across / (x @ across.T).std(0)[:, None].clamp(min=1e-6) * SPREAD
    return (log_shares[:, None] * along + across).float()


class _Watched(Norm):
    """A norm that keeps a copy of each of its results."""

    def __init__(self, norm: Norm, found: list[Tensor]) -> None:
        self.ops, self.eps, self.weight, self._found = norm.ops, norm.eps, norm.weight, found

    def forward(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, H]."""
        result = super().forward(x)
        self._found.append(result.clone())
        return result


def _sample_ids(checkpoint: Checkpoint, config: ModelConfig) -> list[int]:
    if checkpoint.tokenizer is None:
        return [(7 * i * i + 3 * i) % config.vocab_size for i in range(48)]
    return Tokenizer.from_checkpoint(checkpoint).encode(SAMPLE)[: config.max_position]
