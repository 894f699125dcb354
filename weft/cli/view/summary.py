"""The start of a server in a few lines: model, layout, memory. `details` has all that was decided."""

from __future__ import annotations

from collections.abc import Iterator

from weft.base.plural import counted, size
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_yaml
from weft.runtime.launch_plan.plan import LaunchPlan


def summary(name: str, plan: LaunchPlan) -> Iterator[str]:
    """What a person wants to know of every start, and at most one hint."""
    config, engine = plan.config, plan.engine
    yield (
        f"model {name}: {config.family}, {counted(config.num_layers, 'layer')}, {engine.dtype},"
        f" from {plan.checkpoint.path}"
    )
    yield f"layout: {one_line(plan.layout)}, on {engine.device}"
    yield f"memory: {_memory(plan)}"
    if (stored := plan.stored_line()) is not None:
        yield stored
    yield from plan.hints()
    yield f"starting {counted(plan.layout.world, 'rank')}; --log-level debug shows every decision and step"


def details(name: str, plan: LaunchPlan) -> Iterator[str]:
    """The resolved layout and all settings."""
    yield f"model {name}: {plan.checkpoint.path}"
    yield "layout:"
    yield from ("  " + line for line in to_yaml(plan.layout).rstrip().splitlines())
    yield from plan.settings()


def one_line(layout: Layout) -> str:
    """'2 ranks: attention tp 1 x dp 2, dense 2, lm_head 2; all else on each rank'."""
    alone = layout.world // layout.replicas
    ranks = counted(layout.world, "rank")
    if layout.replicas > 1:
        ranks += f", {layout.replicas} replicas of {counted(alone, 'rank')}"
    if alone == 1:
        return f"{ranks}; each module is whole on its rank" if layout.world > 1 else f"{ranks} with the whole model"
    return f"{ranks}: {', '.join(_sizes(layout))}"


def _sizes(layout: Layout) -> Iterator[str]:
    attention, experts = layout.attention, layout.experts
    axes = (("tp", attention.tp, 1), ("dp", attention.dp, 0), ("cp", attention.cp, 0))
    split = f" (kv_split {attention.kv_split})" if attention.kv_split > 1 else ""
    yield "attention " + " x ".join(f"{name} {value}" for name, value, least in axes if value > 1 or least) + split
    if layout.pipeline.stages > 1:
        yield f"{layout.pipeline.stages} stages"
    for module, value in layout.sizes.items():
        if module == "experts" and experts is not None:
            yield f"experts tp {experts.tp} x ep {experts.ep}"
        elif module != "attention":
            yield f"{module} tp {value}"


def _memory(plan: LaunchPlan) -> str:
    memory = plan.memory
    if memory is None:
        return "the KV cache takes what the device has left after loading"
    weights = max(rank.weights for rank in memory.ranks)
    cache = max((memory.num_blocks + 1) * rank.block for rank in memory.ranks)
    tokens = memory.num_blocks * plan.engine.tokens_per_block * plan.layout.kv_owners
    each = " a rank" if len(memory.ranks) > 1 else ""
    return (
        f"{size(weights)} of weights{each}, {size(cache)} of KV cache{each} ({tokens:,} tokens), requests of up to"
        f" {memory.max_model_len:,} tokens"
    )
