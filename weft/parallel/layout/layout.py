"""Layout: how many ranks share each module, fully resolved.

The fields are also the options: names of files, flags of the command line and the JSON schema come from the metadata
below. Build with `resolve`, which fills in defaults and refuses what no world of ranks can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from weft.base.options import Option, Setting, option, settings_of

Given = Mapping[str, object]
"""A user's options: dotted names -> values, {"attention.tp": 2}. None means not given."""

Split = Literal["auto", "groups", "balanced"]
Within = Literal["node"]
Dispatch = Literal["auto", "all_gather", "all_to_all", "deepep", "deepep_normal", "deepep_low_latency"]
Policy = Literal["none", "auto", "global", "hierarchical"]

WORLD = Setting("world", int, True, None, Option("all ranks; checked against the sizes", minimum=1))
"""A document's key besides the fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLayout:
    """Stages of consecutive layers."""

    stages: int = option(
        ..., "pipeline stages", "--pipeline-parallel-size", "--pp-size", "--pp", minimum=1, expert=True
    )
    layers: tuple[int, ...] | None = option(
        ...,
        "layers of each stage (default: even, the first stages take the remainder)",
        "--pipeline-layers",
        minimum=1,
        expert=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """A stage has tp * cp * dp ranks; kv_split divides tp."""

    tp: int = option(..., "ranks that share attention's heads", "--attn-tp-size", minimum=1)
    dp: int = option(
        ...,
        "data parallel groups of attention, each with its own requests and KV cache",
        "--attn-dp-size",
        minimum=1,
    )
    cp: int = option(
        ..., "context parallel: ranks that share a request's positions", "--attn-cp-size", minimum=1, expert=True
    )
    kv_split: int = option(
        ..., "ranks inside tp that split the KV cache by position", "--kv-split-size", minimum=1, expert=True
    )
    split: Split = option(
        ...,
        "how heads are split: groups: whole KV groups; balanced: query heads evenly (auto: groups on one node; balanced"
        " on several where no rank then stores more KV heads)",
        "--attn-split",
        choices=("auto", "groups", "balanced"),
        expert=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OProjLayout:
    """Attention's output projection."""

    tp: int = option(
        ...,
        "ranks that share o_proj",
        "--o-proj-tp-size",
        minimum=1,
        shorthand=(("--o-proj-local-tp", {"within": "node"}),),
    )
    within: Within | None = option(
        ..., "keep every o_proj block inside one node", "--o-proj-within", choices=("node",), expert=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayout:
    """The MLP of dense layers."""

    tp: int = option(..., "ranks that share the dense MLP", "--dense-tp-size", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLayout:
    """How expert slots are filled while serving."""

    policy: Policy = option(
        ...,
        "expert load balancing while serving; auto: hierarchical where there are nodes and groups, else global",
        "--expert-balance",
        choices=("none", "auto", "global", "hierarchical"),
        switches=(("--eplb", "auto"),),
        expert=True,
    )
    interval: int = option(..., "steps between two rebalancings", "--expert-balance-interval", minimum=1, expert=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsLayout:
    """Routed experts: tp * ep divides the stage, tp fastest; several blocks hold copies of the expert set."""

    tp: int = option(..., "ranks that share one expert", "--moe-tp-size", minimum=1)
    ep: int = option(
        ..., "ranks (blocks of tp) that share the experts", "--moe-ep-size", "--expert-parallel-size", minimum=1
    )
    slots: int = option(
        ..., "physical expert slots, copies of hot experts included", "--expert-slots", minimum=1, expert=True
    )
    dispatch: Dispatch = option(
        ..., "how tokens reach their experts", "--moe-dispatch", choices=get_args(Dispatch), expert=True
    )
    balance: BalanceLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedExpertsLayout:
    """Experts that every row passes."""

    tp: int = option(..., "ranks that share the shared experts", "--shared-experts-tp-size", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingLayout:
    """The input embedding."""

    tp: int = option(..., "ranks that share the embedding's vocabulary", "--embedding-tp-size", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LMHeadLayout:
    """The output projection."""

    tp: int = option(
        ...,
        "ranks that share the lm_head's vocabulary",
        "--lm-head-tp-size",
        minimum=1,
        shorthand=(("--lm-head-local-tp", {"within": "node"}),),
    )
    within: Within | None = option(
        ..., "keep every lm_head block inside one node", "--lm-head-within", choices=("node",), expert=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Every size of a world of ranks.

    Order of the ranks: replica, pipeline stage, attention dp, cp, tp (tp fastest). A module of size g cuts a stage's
    ranks into blocks of g consecutive ranks; each block holds one copy of the module and serves its own ranks' rows.
    """

    nodes: int = option(
        ..., "hosts that the ranks are spread over evenly", "--nodes", "--nnodes", minimum=1, expert=True
    )
    replicas: int = option(..., "copies of the whole model", "--replicas", minimum=1)
    pipeline: PipelineLayout
    attention: AttentionLayout
    o_proj: OProjLayout
    dense: DenseLayout
    experts: ExpertsLayout | None
    shared_experts: SharedExpertsLayout | None
    embedding: EmbeddingLayout
    lm_head: LMHeadLayout
    derived: frozenset[str] = field(default=frozenset(), compare=False)
    """Dotted names that the user left to the defaults."""

    @property
    def stage_size(self) -> int:
        """Ranks of one pipeline stage of one replica."""
        return self.attention.tp * self.attention.cp * self.attention.dp

    @property
    def kv_owners(self) -> int:
        """Ranks that share the KV cache of a request by position."""
        return self.attention.cp * self.attention.kv_split

    @property
    def group_size(self) -> int:
        """Ranks of an attention-dp group: its attention blocks, one for each cp."""
        return self.attention.tp * self.attention.cp

    @property
    def world(self) -> int:
        """All ranks."""
        return self.stage_size * self.pipeline.stages * self.replicas

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.world // self.nodes

    @property
    def sizes(self) -> dict[str, int]:
        """Block size of every module, in the order of a forward pass; experts as tp * ep."""
        sizes = {
            "embedding": self.embedding.tp,
            "attention": self.attention.tp,
            "o_proj": self.o_proj.tp,
            "dense": self.dense.tp,
            "experts": self.experts.tp * self.experts.ep if self.experts else 0,
            "shared_experts": self.shared_experts.tp if self.shared_experts else 0,
            "lm_head": self.lm_head.tp,
        }
        return {module: size for module, size in sizes.items() if size}


def layout_settings() -> tuple[Setting, ...]:
    """The layout's fields as options, in order of declaration."""
    return settings_of(Layout)
