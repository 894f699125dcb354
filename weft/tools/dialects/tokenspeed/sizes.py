"""The sizes of a TokenSpeed command: three factorizations of one stage, and the engine's checks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft.tools.dialects.base import Draft
from weft.tools.dialects.expert_options import take_policy, take_slots
from weft.tools.dialects.flags import Arguments
from weft.tools.dialects.reading import (
    divisor_values,
    explain,
    layer_list,
    mixture_of,
    refuse_divisor,
    refuse_node_rank,
)
from weft.tools.dialects.sizes import Size, Sizes, divides, quotient, times, whole_number

_PROJECTION = re.compile(r"TOKENSPEED_\w+?_(O|QKV|SHARED_EXPERT)(?:_PROJ)?_TP_SIZE")
_MOE_SIGNS = ("moe_tp_size", "expert_parallel_size", "enable_expert_parallel", "enable_eplb")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """What one command states: ranks of its world and of a stage, and where attention's tp comes from."""

    args: Arguments
    draft: Draft
    cp_asked: bool
    tp_flag: str
    pp: Size
    world: Size
    stage: Size

    @property
    def tp_given(self) -> bool:
        """Whether a flag gives attention's tp."""
        return self.tp_flag in self.args


def derive_sizes(arguments: Arguments, draft: Draft) -> Sizes:
    """The three factorizations of one command's world."""
    cp_asked = _is_on(draft, "ENABLE_CP")
    tp_flag = "attn_tp_size" if "attn_tp_size" in arguments else "tensor_parallel_size"
    if "attn_tp_size" in arguments and "tensor_parallel_size" in arguments:
        first, second = arguments.given["tensor_parallel_size"], arguments.given["attn_tp_size"]
        message = f"{first.shown} is attention's tensor parallel size; it cannot be given with {second.shown}"
        draft.refuse(message, (), second.where)
    pp = arguments.number("pipeline_parallel_size")
    world = _world(arguments, draft, tp_flag, pp)
    if not divides(pp, world):
        refuse_divisor(draft, arguments, "pipeline_parallel_size", pp, world, f"the world has {world} ranks")
    stage = quotient(world, pp)
    return _derived(
        _Engine(args=arguments, draft=draft, cp_asked=cp_asked, tp_flag=tp_flag, pp=pp, world=world, stage=stage)
    )


def _derived(engine: _Engine) -> Sizes:
    tp, dp = _attention(engine)
    nodes = _nodes(engine)
    _check_nodes(engine, nodes, dp)
    heads = 1 if engine.cp_asked else tp
    sizes = Sizes(
        nodes=nodes,
        stages=engine.pp,
        layers=_layers(engine),
        tp=heads,
        cp=tp if engine.cp_asked else 1,
        dp=dp,
        kv_split=engine.args.number("decode_context_parallel_size"),
        o_proj=heads,
        dense=_dense(engine, tp),
        embedding=heads,
        lm_head=_lm_head(engine, heads, dp),
    )
    sizes.stated_world = engine.world
    _check_inside(engine, heads)
    _experts(engine, sizes)
    _projections(engine, sizes)
    explain(engine.draft, sizes, _reasons(engine, sizes))
    return sizes


def _world(args: Arguments, draft: Draft, tp_flag: str, pp: Size) -> Size:
    """--world-size, else the product of attention's factors."""
    if "world_size" in args:
        return args.number("world_size")
    sized = tp_flag in args or "data_parallel_size" in args
    per_node, nodes = args.number("nprocs_per_node", None), args.number("nnodes")
    if "nprocs_per_node" in args and not sized:
        message = "--world-size is not given; nprocs-per-node x nnodes was taken"
        draft.note("warning", "default", message, args.where("nprocs_per_node"))
        return times(per_node, nodes)
    world = times(args.number(tp_flag), args.number("data_parallel_size"), pp)
    draft.note("info", "default", f"--world-size is not given; tp x dp x stages makes it {_shown(world)}")
    return world


def _attention(engine: _Engine) -> tuple[Size, Size]:
    """tp and dp: a missing one is the quotient; with both missing tp takes the world."""
    args, draft, stage = engine.args, engine.draft, engine.stage
    dp = args.number("data_parallel_size", None)
    if engine.tp_given:
        tp = args.number(engine.tp_flag)
        _check_factor(engine, engine.tp_flag, tp, "attention")
        if "data_parallel_size" not in args:
            return tp, quotient(stage, tp)
        _check_product(engine, tp, dp)
        return tp, dp
    if "data_parallel_size" in args:
        _check_factor(engine, "data_parallel_size", dp, "attention")
        return quotient(stage, dp), dp
    draft.note("info", "default", f"--attn-tp-size is not given: attention takes the stage, {_shown(stage)}")
    return stage, 1


def _lm_head(engine: _Engine, tp: Size, dp: Size) -> Size:
    """As attention; whole on every rank once attention has dp groups, unless --lm-head-tp-size says more."""
    if "lm_head_tp_size" in engine.args:
        size = engine.args.number("lm_head_tp_size")
        _check_factor(engine, "lm_head_tp_size", size, "the lm_head")
        return size
    return tp if dp == 1 else 1 if dp is not None else None


def _layers(engine: _Engine) -> tuple[int, ...] | None:
    if "pp_layer_partition" not in engine.args:
        return None
    text = engine.args.text("pp_layer_partition")
    if (layers := layer_list(text)) is not None:
        return layers
    message = f"--pp-layer-partition {text}: not a list of layers"
    engine.draft.refuse(message, (), engine.args.where("pp_layer_partition"))
    return None


def _check_inside(engine: _Engine, tp: Size) -> None:
    """dcp splits the KV cache inside attention's tp; sizes that a layout has no word for are noted."""
    args, draft = engine.args, engine.draft
    dcp = args.number("decode_context_parallel_size")
    if not divides(dcp, tp):
        reason = f"it splits the KV cache inside attention tp {tp}"
        refuse_divisor(draft, args, "decode_context_parallel_size", dcp, tp, reason)
    for dest, what in (
        ("attn_head_tp_size", "head tensor parallel over dp ranks"),
        ("prefill_context_parallel_size", "query shards inside attention's tp"),
    ):
        if args.number(dest) not in (1, None):
            message = f"{args.given[dest].name}: {what} has no size of its own in a layout; left out"
            draft.note("warning", "approximation", message, args.where(dest))


def _check_product(engine: _Engine, tp: Size, dp: Size) -> None:
    product = times(tp, dp)
    if product is not None and engine.stage is not None and product != engine.stage:
        message = f"attention tp {tp} x dp {dp} = {product}, but a stage has {engine.stage} ranks"
        engine.draft.refuse(message, (), engine.args.where("data_parallel_size"))


def _check_factor(engine: _Engine, dest: str, size: Size, what: str) -> None:
    if not divides(size, engine.stage):
        reason = f"{what}: the factors must make a stage of {engine.stage} ranks"
        refuse_divisor(engine.draft, engine.args, dest, size, engine.stage, reason)


def _dense(engine: _Engine, tp: Size) -> Size:
    if "dense_tp_size" in engine.args:
        size = engine.args.number("dense_tp_size")
        _check_factor(engine, "dense_tp_size", size, "the dense layers")
        return size
    return tp


def _experts(engine: _Engine, sizes: Sizes) -> None:
    args, draft = engine.args, engine.draft
    moe, experts = mixture_of(draft, ["--" + name.replace("_", "-") for name in _MOE_SIGNS if name in args])
    if not moe:
        return
    ep = _ep(engine)
    sizes.moe, sizes.num_experts, sizes.expert_ep = True, experts, ep
    _check_factor(engine, "expert_parallel_size", ep, "the experts")
    sizes.expert_tp = args.number("moe_tp_size") if "moe_tp_size" in args else quotient(engine.stage, ep)
    _check_experts(engine, sizes, ep)
    sizes.shared = sizes.dense
    if args.text("all2all_backend", "none") != "none":
        sizes.dispatch = "all_to_all"
    elif "all2all_backend" in args:
        sizes.dispatch = "all_gather"
    take_slots(args, sizes)
    if args.switch("enable_eplb"):
        take_policy(args, sizes)


def _ep(engine: _Engine) -> Size:
    """--enable-expert-parallel spans the stage where no size is given."""
    ep = engine.args.number("expert_parallel_size")
    if not engine.args.switch("enable_expert_parallel") or ep != 1:
        return ep
    if "world_size" not in engine.args:
        message = "--enable-expert-parallel takes the world that follows from tp x dp; older releases ignore it there"
        engine.draft.note("info", "derived", message, engine.args.where("enable_expert_parallel"))
    return engine.stage


def _check_experts(engine: _Engine, sizes: Sizes, ep: Size) -> None:
    args, draft, tp = engine.args, engine.draft, sizes.expert_tp
    if tp is not None and ep is not None and tp > 1 and ep > 1:
        how = "given" if "moe_tp_size" in args else "stage / ep; --moe-tp-size 1 asks for ep alone"
        message = f"experts tp {tp} ({how}) with ep {ep}: tensor and expert parallel cannot be mixed"
        draft.refuse(message, (1,), args.where("expert_parallel_size") or args.where("moe_tp_size"))
    elif not divides(times(tp, ep), engine.stage):
        refuse_divisor(draft, args, "moe_tp_size", tp, engine.stage, f"the experts' factors must make {engine.stage}")
    if sizes.num_experts is not None and ep is not None and sizes.num_experts % ep:
        legal = tuple(size for size in divisor_values(engine.stage) if sizes.num_experts % size == 0)
        message = f"ep {ep}: the model has {sizes.num_experts} experts; legal: {', '.join(map(str, legal))}"
        draft.refuse(message, legal, args.where("expert_parallel_size"))


def _nodes(engine: _Engine) -> Size:
    """--nnodes; without it the nodes that the processes of each fill: a job's environment gives the rank."""
    args, per_node = engine.args, engine.args.number("nprocs_per_node", None)
    if "nnodes" in args or per_node is None or engine.world is None or engine.world % per_node:
        return args.number("nnodes")
    nodes = engine.world // per_node
    if nodes > 1:
        message = f"nodes {nodes}: {engine.world} ranks, --nprocs-per-node {per_node}; their ranks come from the job"
        engine.draft.note("info", "derived", message, args.where("nprocs_per_node"))
    return nodes


def _projections(engine: _Engine, sizes: Sizes) -> None:
    """Sizes of single projections, which the environment gives to some models."""
    for name, word in engine.draft.document.environment.items():
        match = _PROJECTION.fullmatch(name)
        size = whole_number(word.text)
        if match is None or not size:
            continue
        if not divides(size, engine.stage):
            legal = divisor_values(engine.stage)
            engine.draft.refuse(f"{name} {size}: a stage has {engine.stage} ranks", legal, word.where)
        elif match[1] == "O":
            sizes.o_proj = size
        elif match[1] == "SHARED_EXPERT" and sizes.moe:
            sizes.shared = size
        elif match[1] == "QKV" and size != sizes.tp:
            message = f"{name} {size}: q, k and v have attention's size in a layout"
            engine.draft.note("warning", "approximation", message, word.where)


def _check_nodes(engine: _Engine, nodes: Size, dp: Size) -> None:
    args, draft = engine.args, engine.draft
    per_node = args.number("nprocs_per_node", None)
    rank = args.node_rank()
    if nodes is None or nodes > 1:
        draft.node = rank
    if not divides(nodes, engine.world):
        refuse_divisor(draft, args, "nnodes", nodes, engine.world, f"the world has {engine.world} ranks")
    elif "nprocs_per_node" in args and times(per_node, nodes) not in (None, engine.world) and engine.world:
        message = f"nprocs-per-node {per_node} x nnodes {nodes} is not the world of {engine.world}"
        legal = (engine.world // nodes,) if nodes else ()
        draft.refuse(message, legal, args.where("nprocs_per_node"))
    refuse_node_rank(draft, args, nodes, rank)
    if "dist_init_addr" not in args and (dp not in (1, None) or nodes not in (1, None)):
        why = f"attention dp {dp}" if nodes == 1 else f"--nnodes {nodes}"
        draft.note("warning", "incomplete", f"{why} needs --dist-init-addr; this engine would not start without it")
    if engine.cp_asked:
        message = "ENABLE_CP turns attention's tp into cp; the engine then runs one request at a time"
        draft.note("warning", "environment", message)


def _reasons(engine: _Engine, sizes: Sizes) -> dict[str, str]:
    reasons = {
        "o_proj.tp": "as attention" if sizes.o_proj == sizes.tp else "by the environment",
        "embedding.tp": "as attention",
        "lm_head.tp": "as attention" if sizes.dp == 1 else "whole on every rank, since attention has dp groups",
    }
    if not engine.tp_given:
        reasons["attention.tp"] = "stage / dp"
    if "data_parallel_size" not in engine.args:
        reasons["attention.dp"] = "stage / attention's tp"
    if "dense_tp_size" not in engine.args:
        reasons["dense.tp"] = "as attention"
    if sizes.moe:
        reasons["shared_experts.tp"] = "as dense"
        if "moe_tp_size" not in engine.args:
            reasons["experts.tp"] = "stage / ep"
    return reasons


def _is_on(draft: Draft, variable: str) -> bool:
    word = draft.document.environment.get(variable)
    return word is not None and word.text.lower() not in ("", "0", "false", "no")


def _shown(size: Size) -> str:
    return "open" if size is None else str(size)
