"""LayoutReport: everything `weft explain` reports about a model under a layout, as a record."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.base.settings import DTYPE_BYTES, TOKENS_PER_BLOCK
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.routed import Dispatch
from weft.tools.explain.choices import KernelChoices
from weft.tools.explain.cores import Cores
from weft.tools.explain.hops import TransferTraffic, hop_traffic
from weft.tools.explain.largest import AT_SAMPLING, largest_bytes, largest_note, logprobs_note
from weft.tools.explain.memory import RankMemoryUse, memory_of_ranks
from weft.tools.explain.notes import LayoutNote, notes_of
from weft.tools.explain.traffic import (
    BoundaryTraffic,
    OwnerTraffic,
    PromptTraffic,
    RoutedTraffic,
    Traffic,
    prompt_traffic,
    traffic_of,
)


@dataclass(frozen=True, slots=True)
class LayoutReport:
    """ranks: of the world, in order. traffic: of one stage, in the order of a forward pass."""

    model: str
    config: ModelConfig
    layout: Layout
    dtype: str
    batches: tuple[int, ...]
    """Rows per attention-dp group at which the boundaries are priced."""
    residual: Placement
    tied_view: bool
    ranks: tuple[RankMemoryUse, ...]
    dispatch: Dispatch | None
    """How rows reach experts; None for a dense model."""
    traffic: tuple[Traffic, ...]
    hops: tuple[TransferTraffic, ...]
    """Between pipeline stages."""
    prompt: PromptTraffic | None
    """Where ranks share the KV cache of a request."""
    notes: tuple[LayoutNote, ...]
    storage: WeightStorage
    """How matrices are."""
    largest: tuple[int, ...]
    """Bytes that each rank receives at each of `batches` in place of the boundaries `AT_SAMPLING`, at most, where all
    rows take their largest logit; empty where that makes no difference."""
    cores: Cores | None = None
    """Where any were asked for."""

    @property
    def boundaries(self) -> tuple[BoundaryTraffic, ...]:
        """Transitions between placements."""
        return tuple(passed for passed in self.traffic if isinstance(passed, BoundaryTraffic))

    @property
    def distinct(self) -> tuple[RankMemoryUse, ...]:
        """The first of the ranks that hold the same, for each that there are."""
        return tuple(rank for rank in self.ranks if rank.alike == rank.rank)

    @property
    def routed(self) -> tuple[RoutedTraffic, ...]:
        """Exchanges of rows with the experts that they chose."""
        return tuple(passed for passed in self.traffic if isinstance(passed, RoutedTraffic))

    @property
    def of_owners(self) -> tuple[OwnerTraffic, ...]:
        """Exchanges between ranks that share the KV cache of a request."""
        return tuple(passed for passed in self.traffic if isinstance(passed, OwnerTraffic))

    def received_per_step(self, batch: int) -> tuple[int, ...]:
        """Bytes that each rank of the world receives in one decode step, all boundaries together, with even
        choices of experts."""
        return self._received(batch, self.traffic, 0)

    def received_for_largest(self, batch: int) -> tuple[int, ...]:
        """The same, at most, where all rows take their largest logit; empty where that makes no difference."""
        if not self.largest:
            return ()
        others = tuple(passed for passed in self.traffic if passed.name not in AT_SAMPLING)
        return self._received(batch, others, self.largest[self.batches.index(batch)])

    def _received(self, batch: int, traffic: tuple[Traffic, ...], more: int) -> tuple[int, ...]:
        place, stages = self.batches.index(batch), range(self.layout.pipeline.stages)
        found = [self._received_in_stage(stage, place, traffic) for stage in stages]
        return tuple(count + more for counts in found for count in counts) * self.layout.replicas

    def _received_in_stage(self, stage: int, place: int, traffic: tuple[Traffic, ...]) -> list[int]:
        totals = [0] * self.layout.stage_size
        prices = [(passed.times_of_stage[stage], call.received) for passed in traffic for call in passed.calls]
        for passing in self.hops:
            if passing.hop.receiver == stage:
                prices += [(1, passing.received), *((1, call.received) for call in passing.gathers)]
        for times, received in prices:
            per_rank = received[place].per_rank
            totals = [total + times * count for total, count in zip(totals, per_rank, strict=True)]
        return totals


def explain(
    model: str,
    config: ModelConfig,
    layout: Layout,
    *,
    dtype: str,
    batch: int = 1,
    storage: WeightStorage | None = None,
    choices: KernelChoices | None = None,
    cores: Cores | None = None,
    logprobs: int | None = None,
    chunk: tuple[int, int] = (2048, TOKENS_PER_BLOCK),
) -> LayoutReport:
    """The report for one model and layout. `model`: its name in the report; `batch`: rows per attention-dp group;
    `kept`: what is quantized. `choices`: what a CPU decides. `cores`: those that were asked for.
    `logprobs`: alternatives of each token whose log-probabilities the step's requests ask for; None: none does.
    `chunk`: rows of a prompt that a step may have, and tokens of a KV block.

    LayoutError where the model does not fit the layout.
    """
    check_fit(layout, config)
    choices = choices or KernelChoices()
    storage = replace(storage or WeightStorage(), compressed=choices.compressed)
    shards, itemsize = Shards(config, layout, storage=storage), DTYPE_BYTES[dtype]
    ranks = memory_of_ranks(shards, itemsize)
    batches = (1,) if batch == 1 else (1, batch)
    greedy = choices.programs and logprobs is None
    largest = largest_bytes(layout, batches) if greedy else ()
    return LayoutReport(
        model=model,
        config=config,
        layout=layout,
        dtype=dtype,
        batches=batches,
        residual=shards.forward_plan.residual,
        tied_view=shards.tied_view and not shards.packs_head_again,
        ranks=ranks,
        dispatch=shards.forward_plan.dispatch,
        traffic=traffic_of(shards, itemsize, batches, logprobs),
        hops=hop_traffic(shards, itemsize, batches),
        prompt=prompt_traffic(shards, itemsize, min(chunk[0], config.context), chunk[1]),
        notes=notes_of(
            shards, ranks, (*largest_note(largest), *logprobs_note(layout, logprobs), *choices.notes), choices.device
        ),
        storage=storage,
        largest=largest,
        cores=cores,
    )
