"""Whether every rank of a layout gets a part of each of a model's dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from weft.base.errors import LayoutError
from weft.base.plural import counted, up_to
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.boundaries import head_columns
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout, Split
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.splits import assign_heads, even_splits, splits_after

SHOWN_PAIRS = 12
"""Pairs of sizes that a message lists."""


@dataclass(frozen=True, slots=True)
class _Need:
    """A module whose every rank needs a part of a dimension; `fits(size)` says whether each gets one."""

    module: str
    size: int
    dimension: str
    units: int
    fits: Callable[[int], bool]


def resolve_for(
    config: ModelConfig, given: Mapping[str, object], world_size: int | None = None, tp: int | None = None
) -> Layout:
    """`resolve`, where a kv_split that does not divide tp is refused with the pairs that the model allows."""
    try:
        return resolve(given, world_size, tp, num_experts=config.num_experts)
    except LayoutError as error:
        if error.field != "attention.kv_split" or not error.legal or config.mla is not None:
            raise
        split: Split = "balanced" if given.get("attention.split") == "balanced" else "groups"
        reason = str(error).partition(";")[0]
        raise LayoutError(
            f"{reason}; {_legal_kv_splits(config, split)}", field=error.field, value=error.value, legal=(1,)
        ) from None


def check_fit(layout: Layout, config: ModelConfig) -> None:
    """Raises LayoutError naming module, dimension, value and legal sizes where a rank would hold nothing."""
    for need in _needs(layout, config):
        if not need.fits(need.size):
            legal = tuple(size for size in divisors(layout.stage_size) if need.fits(size))
            others = f"; with others at most {need.units}" if need.fits(need.units) else ""
            raise LayoutError(
                f"{need.module} tp {need.size}: {need.dimension} is {need.units}, not enough for every rank; "
                f"legal with {layout.stage_size} ranks: {', '.join(map(str, legal))}{others}",
                field=f"{need.module}.tp",
                value=need.size,
                legal=legal,
            )
    _check_kv_split(layout, config)
    _check_layers(layout, config.num_layers)


def _check_kv_split(layout: Layout, config: ModelConfig) -> None:
    attention = layout.attention
    if _shares_kv_heads(config, attention.tp, attention.kv_split, attention.split):
        return
    pairs = _kv_split_pairs(config, attention.split)
    raise LayoutError(
        f"attention.kv_split {attention.kv_split}: with attention.tp {attention.tp} the ranks of a split do not hold"
        f" the same KV heads, of which the model has {config.num_kv_heads};"
        f" {_legal_kv_splits(config, attention.split)}",
        field="attention.kv_split",
        value=attention.kv_split,
        legal=(1, *(split for tp, split in pairs if tp == attention.tp)),
    )


def _legal_kv_splits(config: ModelConfig, split: Split) -> str:
    pairs = _kv_split_pairs(config, split)
    shown = ", ".join(f"{tp} and {kv_split}" for tp, kv_split in pairs[:SHOWN_PAIRS])
    more = f" and {len(pairs) - SHOWN_PAIRS} more" if len(pairs) > SHOWN_PAIRS else ""
    legal = f"legal tp and kv_split: {shown + more or 'none above 1'}"
    return f"{legal}; --attn-cp-size splits the cache over ranks of its own"


def _shares_kv_heads(config: ModelConfig, tp: int, kv_split: int, split: Split) -> bool:
    """Whether runs of `kv_split` neighbouring ranks hold the same KV heads, and so can split positions instead."""
    if kv_split == 1 or config.mla is not None:
        return True
    held = [share.kv for share in assign_heads(config.num_heads, config.num_kv_heads, tp, split)]
    return all(len({*held[first : first + kv_split]}) == 1 for first in range(0, tp, kv_split))


def _kv_split_pairs(config: ModelConfig, split: Split) -> list[tuple[int, int]]:
    """Legal (tp, kv_split) with a kv_split above 1."""
    sizes = [(tp, kv_split) for tp in range(2, config.num_heads + 1) for kv_split in divisors(tp)[1:]]
    return [each for each in sizes if _shares_kv_heads(config, *each, split)]


def _needs(layout: Layout, config: ModelConfig) -> Iterator[_Need]:
    """One by one: o_proj's cuts follow attention's, so they exist only once attention fits."""

    def at_most(units: int) -> Callable[[int], bool]:
        return lambda size: size <= units

    heads, wide, vocab = config.num_heads, config.intermediate_size, config.vocab_size
    yield _Need("attention", layout.attention.tp, "num_attention_heads", heads, at_most(heads))
    columns = head_columns(layout, heads=heads, kv_heads=config.num_kv_heads, head_dim=config.value_dim)
    attention_width = heads * config.value_dim
    yield _Need("o_proj", layout.o_proj.tp, "num_attention_heads * head_dim", attention_width, _has_columns(columns))
    yield _Need("dense", layout.dense.tp, "intermediate_size", wide, at_most(wide))
    yield _Need("embedding", layout.embedding.tp, "vocab_size", vocab, at_most(vocab))
    yield _Need("lm_head", layout.lm_head.tp, "vocab_size", vocab, at_most(vocab))


def _has_columns(columns: tuple[Interval, ...]) -> Callable[[int], bool]:
    """Whether each of o_proj's ranks gets a column of attention's output."""
    return lambda size: all(lo < hi for lo, hi in splits_after(columns, size))


def _check_layers(layout: Layout, num_layers: int) -> None:
    stages, layers = layout.pipeline.stages, layout.pipeline.layers
    if stages > num_layers:
        raise LayoutError(
            f"pipeline stages {stages}: the model has {counted(num_layers, 'layer')}; legal: {up_to(num_layers)}",
            field="pipeline.stages",
            value=stages,
            legal=tuple(range(1, num_layers + 1)),
        )
    if layers is not None and sum(layers) != num_layers:
        text, even = " + ".join(map(str, layers)), [hi - lo for lo, hi in even_splits(num_layers, len(layers))]
        raise LayoutError(
            f"pipeline layers {text} = {sum(layers)}, but the model has {num_layers} layers; legal: {len(layers)}"
            f" numbers that add up to {num_layers}, such as {', '.join(map(str, even))}",
            field="pipeline.layers",
            value=layers,
        )
