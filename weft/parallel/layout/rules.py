"""The rules between the sizes of a layout: blocks divide a stage, nodes divide the world."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

from weft.base.errors import LayoutError
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout


def check_sizes(layout: Layout) -> None:
    """LayoutError where sizes of a resolved layout contradict each other."""
    if layout.world % layout.nodes:
        raise _impossible("nodes", "nodes", layout.nodes, f"the world has {layout.world} ranks", divisors(layout.world))
    attention, layers = layout.attention, layout.pipeline.layers
    if attention.tp % attention.kv_split:
        raise _impossible(
            "attention kv_split",
            "attention.kv_split",
            attention.kv_split,
            f"attention has tp {attention.tp}",
            divisors(attention.tp),
        )
    if layers is not None and len(layers) != layout.pipeline.stages:
        raise LayoutError(
            f"pipeline layers {join(layers)}: {len(layers)} numbers for {layout.pipeline.stages} pipeline stages;"
            " give one for each stage",
            field="pipeline.layers",
            value=layers,
        )
    for module, size in layout.sizes.items():
        _check_block(layout, module, size)


def _check_block(layout: Layout, module: str, size: int) -> None:
    """A block must divide the stage, and the ranks of a node where it must stay within one."""
    stage, per_node = layout.stage_size, layout.ranks_per_node
    field = f"{module}.tp"
    if stage % size:
        label = f"{module} tp" if module != "experts" else "experts tp * ep"
        larger = " (more ranks: --attn-dp-size or --world-size)" if size > stage else ""
        whole = "a stage" if layout.pipeline.stages > 1 else "a replica" if layout.replicas > 1 else "the layout"
        raise _impossible(label, field, size, f"{whole} has {stage} ranks", divisors(stage), larger)
    within = {"o_proj": layout.o_proj.within, "lm_head": layout.lm_head.within}.get(module)
    if within == "node" and per_node % size:
        reason = f"within node: a node has {per_node} ranks"
        raise _impossible(f"{module} tp", field, size, reason, divisors(gcd(stage, per_node)))


def _impossible(label: str, field: str, size: int, reason: str, legal: tuple[int, ...], more: str = "") -> LayoutError:
    text = f"{label} {size}: {reason}; legal: {join(legal)}{more}"
    return LayoutError(text, field=field, value=size, legal=legal)


def join(numbers: Iterable[object]) -> str:
    """The numbers with commas."""
    return ", ".join(str(number) for number in numbers)
