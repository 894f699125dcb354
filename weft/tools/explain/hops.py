"""The hops between pipeline stages, priced as the boundaries are, and how evenly stages share a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.stages import head_products, layer_products, stage_layers
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import PipelineTransfer, pipeline_transfers, transfer_rows
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.ranks import node_of
from weft.tools.explain.traffic import ID_BYTES, LOGIT_BYTES, CollectiveCall, Received, call_of, decode_tables

MARGIN = 0.02
"""How much shorter the longest stage must become before other layers are proposed."""


@dataclass(frozen=True, slots=True)
class TransferTraffic:
    """A hop, what each rank of the receiving stage receives in it, and the calls by which these gather whole rows.
    `nodes`: of sender and receiver, where a message crosses from node to node (first replica)."""

    hop: PipelineTransfer
    received: tuple[Received, ...]
    gathers: tuple[CollectiveCall, ...]
    nodes: tuple[tuple[int, int], ...]


def hop_traffic(shards: Shards, itemsize: int, batches: tuple[int, ...]) -> tuple[TransferTraffic, ...]:
    """All hops of a decode step, priced at each of `batches` rows per attention-dp group."""
    layout, tables = shards.layout, {batch: decode_tables(shards.layout, batch) for batch in batches}
    return tuple(
        TransferTraffic(
            hop,
            tuple(_received(layout, hop, itemsize, batch) for batch in batches),
            tuple(call_of(layout, hop.gather, step, max(LOGIT_BYTES, itemsize), tables) for step in hop.gather.steps),
            _nodes(layout, hop),
        )
        for hop in pipeline_transfers(layout, shards.config.hidden_size, shards.forward_plan.residual)
    )


def _nodes(layout: Layout, hop: PipelineTransfer) -> tuple[tuple[int, int], ...]:
    firsts = (hop.sender * layout.stage_size, hop.receiver * layout.stage_size)
    ends = [tuple(node_of(layout, first + rank) for first in firsts) for rank in range(layout.stage_size)]
    return tuple(sorted({(sender, receiver) for sender, receiver in ends if sender != receiver}))


def _received(layout: Layout, hop: PipelineTransfer, itemsize: int, batch: int) -> Received:
    size = ID_BYTES if hop.item == "id" else max(LOGIT_BYTES, itemsize)
    tables = decode_tables(layout, batch)
    counts = (transfer_rows(hop, rank, *tables) for rank in range(layout.stage_size))
    return Received(batch, tuple(count * hop.width * size for count in counts))


def stage_costs(config: ModelConfig, layers: Sequence[Interval], head: int) -> list[int]:
    """Multiplications of a row in each stage; `head`: those of the last one after its layers."""
    each = layer_products(config)
    costs = [sum(each[lo:hi]) for lo, hi in layers]
    costs[-1] += head
    return costs


def evenest_layers(config: ModelConfig, stages: int) -> tuple[int, ...]:
    """Layers of each stage with the cheapest longest stage for a decode row, whose head counts. Of several the first
    stages have most."""
    sums = list(accumulate(layer_products(config), initial=0))
    count, head = config.num_layers, head_products(config)
    best: list[tuple[int, tuple[int, ...]]] = [(sums[-1] - sums[lo] + head, (count - lo,)) for lo in range(count)]
    for later in range(1, stages):  # best[lo]: of the layers from lo on, with `later` stages after the first of them
        best = [
            min(
                (
                    (max(sums[hi] - sums[lo], best[hi][0]), (hi - lo, *best[hi][1]))
                    for hi in range(lo + 1, count - later + 1)
                ),
                key=lambda found: (found[0], [-layers for layers in found[1]]),
            )
            for lo in range(count - later)
        ]
    return best[0][1]


def stage_lines(config: ModelConfig, layout: Layout) -> Iterator[str]:
    """Shares of the stages, and a proposal where other layers shorten the longest stage."""
    layers = stage_layers(layout, config.num_layers)
    decode, prompt = stage_costs(config, layers, head_products(config)), stage_costs(config, layers, 0)
    yield (
        f"stages compute {_shares(decode)} of a decode row, lm_head included, and {_shares(prompt)} of a prompt's row;"
        " the longest sets the pace"
    )
    proposed = evenest_layers(config, len(layers))
    ends = list(accumulate(proposed))
    other = [(end - count, end) for end, count in zip(ends, proposed, strict=True)]
    better = stage_costs(config, other, head_products(config))
    if max(better) < (1 - MARGIN) * max(decode):
        words = ",".join(map(str, proposed))
        beside = _shares(stage_costs(config, other, 0))
        yield (
            f"--pipeline-layers {words} is evenest for decode rows: {_shares(better)}; prompt rows then cost {beside}"
        )


def _shares(costs: Sequence[int]) -> str:
    return " + ".join(f"{cost / sum(costs):.0%}" for cost in costs)
