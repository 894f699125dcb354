"""Notes about a layout: imbalance, copies, and what the numbers do not include."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from weft.base.errors import LayoutError
from weft.parallel.arch.quantization import weight_bits
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.slots import staged_slots
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.splits import assign_heads
from weft.parallel.layout.support import refuse_unsupported
from weft.tools.explain.hops import stage_lines
from weft.tools.explain.memory import RankMemoryUse, bytes_of_second_copy
from weft.tools.explain.units import binary

Level = Literal["info", "warning"]


@dataclass(frozen=True, slots=True)
class LayoutNote:
    """`code` is stable, `message` is for people."""

    level: Level
    code: str
    message: str


def notes_of(
    shards: Shards, ranks: tuple[RankMemoryUse, ...], more: tuple[LayoutNote, ...] = (), device: str = "cpu"
) -> tuple[LayoutNote, ...]:
    """All notes, warnings first; `more`: on what is not the layout's."""
    notes = [
        *_unsupported(shards.layout, device),
        *_heads(shards),
        *_kv_copies(shards),
        *_o_proj(shards),
        *_residual(shards),
        *_dispatch(shards),
        *_tied(shards, ranks),
        *_stages(shards),
        *_latents(shards),
        *_slots(shards),
        *_quantized(shards),
        *more,
        *_left_out(shards.layout),
    ]
    return tuple(sorted(notes, key=lambda note: note.level != "warning"))


def refusals(shards: Shards, device: str) -> Iterator[LayoutNote]:
    """What `weft serve` would refuse: the layout, or the checkpoint."""
    yield from _unsupported(shards.layout, device)
    yield from (note for note in _quantized(shards) if note.level == "warning")


def _unsupported(layout: Layout, device: str) -> Iterator[LayoutNote]:
    try:
        refuse_unsupported(layout, device)
    except LayoutError as error:
        yield LayoutNote("warning", "not_served", str(error))


def _heads(shards: Shards) -> Iterator[LayoutNote]:
    config, attention = shards.config, shards.layout.attention
    counts = [_length(share.q) for share in shards.heads]
    if len(set(counts)) == 1:
        return
    text = f"attention's ranks hold {_join(counts)} of {config.num_heads} query heads: " + _idle(counts)
    even = [_length(share.q) for share in assign_heads(config.num_heads, config.num_kv_heads, attention.tp, "balanced")]
    if max(even) < max(counts):
        text += f"; attention.split: balanced gives {_join(even)}"
    yield LayoutNote("warning", "uneven_heads", text)


def _kv_copies(shards: Shards) -> Iterator[LayoutNote]:
    held = sum(_length(share.kv) for share in shards.heads)
    if held > shards.config.num_kv_heads:
        text = f"an attention block holds {held} KV heads for the model's {shards.config.num_kv_heads}: some are copies"
        yield LayoutNote("info", "kv_copies", text)


def _o_proj(shards: Shards) -> Iterator[LayoutNote]:
    layout = shards.layout
    columns = shards.config.num_heads * shards.config.value_dim
    spec = next(spec for spec in shards.counted_specs if spec.module == "o_proj" and spec.dim is not None)
    intervals = [shards.interval(spec, rank) or (0, columns) for rank in range(layout.o_proj.tp)]
    widths = [_length(interval) for interval in intervals]
    if max(widths) - min(widths) > 1:
        yield LayoutNote("info", "uneven_o_proj", f"o_proj's ranks hold {_join(widths)} columns: {_idle(widths)}")


def _residual(shards: Shards) -> Iterator[LayoutNote]:
    layout, tp = shards.layout, shards.layout.attention.tp
    routed = shards.forward_plan.dispatch
    sizes = {"o_proj": layout.o_proj.tp, "dense": layout.dense.tp}
    if routed is not None:
        experts = {name: layout.sizes[name] for name in ("experts", "shared_experts")}
        sizes |= experts if routed.form == "all_gather" else {"shared_experts": experts["shared_experts"]}
    exchanged = routed is not None and routed.form == "all_to_all"
    others = [f"{name} {size}" for name, size in sizes.items() if size != tp]
    others += ["experts reached by all_to_all"] if exchanged else []
    if tp > 1 and not others:
        text = f"whole on every rank of an attention block: {_words(list(sizes))} have attention's size {tp}"
    elif tp > 1:
        text = f"scattered, each row on the rank that owns it: not of attention's size {tp}: {', '.join(others)}"
    else:
        text = "on the rank that owns the row: attention has size 1"
    yield LayoutNote("info", "residual", f"the residual stream lies {text}")


def _dispatch(shards: Shards) -> Iterator[LayoutNote]:
    dispatch = shards.forward_plan.dispatch
    if dispatch is not None:
        yield LayoutNote("info", "dispatch", f"rows reach their experts by {dispatch.form}, {dispatch.reason}")


def _words(names: list[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1]))


def _stages(shards: Shards) -> Iterator[LayoutNote]:
    if shards.layout.pipeline.stages > 1:
        for line in stage_lines(shards.config, shards.layout):
            yield LayoutNote("info", "stage_shares", line)


def _tied(shards: Shards, ranks: tuple[RankMemoryUse, ...]) -> Iterator[LayoutNote]:
    if not shards.config.tie_embeddings:
        return
    if shards.packs_head_again:
        extra = binary(bytes_of_second_copy(shards.layout, ranks))
        text = "embedding and lm_head are tied, but every rank has the whole embedding: its rows of lm_head are packed"
        yield LayoutNote("info", "tied_packed_again", f"{text} once more, up to {extra}")
        return
    if shards.tied_view:
        yield LayoutNote("info", "tied_one_copy", "embedding and lm_head are tied: one copy, lm_head is a view of it")
        return
    sizes = f"embedding has size {shards.layout.embedding.tp}, lm_head {shards.layout.lm_head.tp}"
    reason = sizes if shards.layout.pipeline.stages == 1 else "they lie in different pipeline stages"
    extra = binary(bytes_of_second_copy(shards.layout, ranks))
    text = f"embedding and lm_head are tied, but {reason}: a second copy, up to {extra} a rank"
    yield LayoutNote("info", "tied_two_copies", text)


def _latents(shards: Shards) -> Iterator[LayoutNote]:
    tp, mla = shards.layout.attention.tp, shards.config.mla
    copies = tp // shards.layout.attention.kv_split
    if mla is not None and copies > 1:
        text = f"the latent KV cache, {mla.latent_dim} numbers a token and layer, is held {copies} times in each"
        other = f"attention.kv_split {tp} or attention dp holds it once"
        yield LayoutNote("warning", "latent_copies", f"{text} attention block of {tp} ranks; {other}")


def _slots(shards: Shards) -> Iterator[LayoutNote]:
    """What replicas of experts, and room for experts that move, cost a rank in the dtype that is asked about."""
    experts = shards.layout.experts
    if experts is None:
        return
    more = experts.slots - shards.config.num_experts
    slot = shards.slot_bytes(0, 2)
    layers = sum(map(shards.config.has_experts, range(shards.config.num_layers)))
    if more > 0:
        held = binary(more * slot * layers // experts.ep)
        text = f"{experts.slots} slots for {shards.config.num_experts} experts: {more} replicas a layer, about {held} a"
        yield LayoutNote("info", "replicas", f"{text} rank with weights of 2 bytes, counted in the weights")
    if staged := staged_slots(experts):
        text = (
            f"balancing: each rank keeps room for {staged} slots of one layer that arrive, {binary(staged * slot)} with"
        )
        yield LayoutNote("info", "balancing", f"{text} weights of 2 bytes (--eplb-max-moved), beside the weights")


def _quantized(shards: Shards) -> Iterator[LayoutNote]:
    if shards.cuts_groups:
        text = (
            "int4 has a scale for each 32 of what a rank has of a row, and matrices are cut inside such groups of whole"
        )
        yield LayoutNote("info", "cuts_groups", f"{text} rows: last digits are not those of one rank")
    method = shards.config.quantization
    if not method:
        return
    bits = weight_bits(method)
    priced = "bytes are those of plain weights, for the width of this method is not known"
    if bits is not None:
        priced = f"matrices of attention, o_proj, MLP and experts are priced at {bits} bits, without their scales"
    yield LayoutNote(
        "warning", "quantized", f"the checkpoint is quantized ({method}), which weft cannot load; {priced}"
    )


def _left_out(layout: Layout) -> Iterator[LayoutNote]:
    """Notes on what the tables do not show."""
    if layout.pipeline.stages > 1:
        text = "boundaries list the first stage's ranks, the other stages' are alike; hops between stages stand below"
        yield LayoutNote("info", "stages_alike", text)
    if layout.replicas > 1:
        yield LayoutNote("info", "replicas_alike", "every replica holds and moves the same; boundaries show the first")
    if layout.attention.cp > 1 or layout.attention.kv_split > 1:
        shared = layout.kv_owners
        text = (
            f"a request's KV cache is split by position over {shared} ranks: KV blocks go to them in turn, and a prefix"
            f" shorter than {shared} blocks is not cached"
        )
        yield LayoutNote("info", "positions_split", text)
    if layout.attention.cp > 1:
        text = (
            "with cp a row is computed by the rank that keeps its position: decode rows that stand at one position are"
            " all on one rank; bytes are those of rows spread evenly"
        )
        yield LayoutNote("info", "rows_of_owners", text)


def _idle(counts: list[int]) -> str:
    """Ranks wait for the largest share."""
    idle = 1 - sum(counts) / (len(counts) * max(counts))
    return f"a step takes as long as {max(counts)}, ranks idle {idle:.0%} of that time"


def _length(interval: Interval) -> int:
    return interval[1] - interval[0]


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
