"""The sizes of a vLLM command, step by step as the engine derives and checks them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.tools.dialects.base import Draft
from weft.tools.dialects.expert_options import carry_window
from weft.tools.dialects.flags import Arguments
from weft.tools.dialects.reading import explain, layers_of, mixture_of, refuse_divisor, refuse_node_rank
from weft.tools.dialects.sizes import Size, Sizes, divides, times, whole_number
from weft.tools.dialects.values import open_name
from weft.tools.dialects.vllm.modules import ModuleSizes

_FACTORS = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "prefill_context_parallel",
    "decode_context_parallel",
)
_MOE_SIGNS = ("enable_expert_parallel", "enable_eplb", "all2all_backend", "num_redundant_experts")
_ALL_GATHER = ("allgather_reducescatter", "naive")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """What one command states."""

    args: Arguments
    draft: Draft
    tp: Size
    pp: Size
    dp: Size
    pcp: Size
    dcp: Size
    expert_parallel: bool
    moe: bool
    experts: int | None
    modules: ModuleSizes


def derive_sizes(arguments: Arguments, draft: Draft) -> Sizes:
    """The sizes of one command, step by step as the engine derives them."""
    engine = _stated(arguments, draft)
    _check(engine)
    if engine.modules.open_dp and "data_parallel_size" not in arguments:
        draft.open("--data-parallel-size, which this part does not show,", ("data-parallel-size",))
        engine = replace(engine, dp=whole_number(draft.context.settings.get("data-parallel-size", "")))
    return _derived(engine)


def _stated(arguments: Arguments, draft: Draft) -> _Engine:
    tp, pp, dp, pcp, dcp = (arguments.number(f"{name}_size") for name in _FACTORS)
    expert_parallel = arguments.switch("enable_expert_parallel")
    signs = [f"--{name.replace('_', '-')}" for name in _MOE_SIGNS if arguments.switch(name)]
    moe, experts = mixture_of(draft, signs)
    return _Engine(
        args=arguments,
        draft=draft,
        tp=tp,
        pp=pp,
        dp=dp,
        pcp=pcp,
        dcp=dcp,
        expert_parallel=expert_parallel,
        moe=moe,
        experts=experts,
        modules=ModuleSizes(arguments, draft),
    )


def _derived(engine: _Engine) -> Sizes:
    coupled = engine.moe or engine.modules.sized
    sizes = Sizes(
        nodes=_nodes(engine),
        replicas=1 if coupled else engine.dp,
        stages=engine.pp,
        layers=layers_of(engine.draft, "VLLM_PP_LAYER_PARTITION"),
        tp=engine.tp,
        dp=engine.dp if coupled else 1,
        cp=engine.pcp,
        kv_split=_kv_split(engine),
        o_proj=engine.tp,
        dense=engine.tp,
        embedding=engine.tp,
        lm_head=engine.tp,
    )
    if engine.moe:
        _experts(engine, sizes)
    _tell_dp(engine, coupled)
    derived = _reasons(engine, sizes)
    engine.modules.apply(sizes, engine.tp, engine.dp, engine.moe)
    explain(engine.draft, sizes, {name: why for name, why in derived.items() if name not in engine.modules.names})
    return sizes


def _check(engine: _Engine) -> None:
    """What the engine asserts about pcp, dcp and expert load balancing."""
    args, draft = engine.args, engine.draft
    if engine.pcp not in (1, None) and engine.dp not in (1, None):
        message = f"--prefill-context-parallel-size {engine.pcp} excludes --data-parallel-size {engine.dp}"
        draft.refuse(message, (1,), args.where("prefill_context_parallel_size"))
    if not divides(engine.dcp, engine.tp) and not _over_prefill(engine):
        reason = f"dcp splits the KV cache inside tp {engine.tp}"
        refuse_divisor(draft, args, "decode_context_parallel_size", engine.dcp, engine.tp, reason)
    if args.switch("enable_eplb") and not engine.expert_parallel:
        draft.refuse("--enable-eplb needs --enable-expert-parallel", (), args.where("enable_eplb"))
    balancing = [args.switch(f"data_parallel_{kind}_lb") for kind in ("hybrid", "external")]
    if all(balancing):
        draft.refuse("--data-parallel-hybrid-lb and --data-parallel-external-lb exclude each other")
    if args.switch("headless") and balancing[0]:
        draft.refuse("--data-parallel-hybrid-lb cannot be headless", (), args.where("headless"))


def _over_prefill(engine: _Engine) -> bool:
    """Whether the KV cache is split over the ranks of prefill too: dcp is pcp, or tp x pcp."""
    return engine.pcp not in (1, None) and engine.dcp in (engine.pcp, times(engine.tp, engine.pcp))


def _kv_split(engine: _Engine) -> Size:
    """Parts of the KV cache inside tp; those over pcp are in its cp."""
    if not _over_prefill(engine):
        return engine.dcp
    message = "splits the KV cache over the ranks of --prefill-context-parallel-size"
    where = engine.args.where("decode_context_parallel_size")
    engine.draft.note("info", "derived", f"--decode-context-parallel-size {engine.dcp}: {message}", where)
    return 1 if engine.dcp == engine.pcp else engine.tp


def _nodes(engine: _Engine) -> Size:
    """--nnodes, else as many as the local dp ranks need."""
    args, draft = engine.args, engine.draft
    world = times(engine.tp, engine.pp, engine.dp, engine.pcp)
    rank = args.node_rank()
    if "nnodes" in args:
        nodes = args.number("nnodes")
        if not divides(nodes, world):
            refuse_divisor(draft, args, "nnodes", nodes, world, f"the world has {world} ranks")
        if nodes is None or nodes > 1:
            draft.node = rank
        refuse_node_rank(draft, args, nodes, rank)
        return nodes
    return _nodes_of_dp(engine)


def _nodes_of_dp(engine: _Engine) -> Size:
    args, draft, dp = engine.args, engine.draft, engine.dp
    rank = args.number("data_parallel_rank", None, minimum=0)
    start = args.number("data_parallel_start_rank", 0, minimum=0)
    for dest, first in (("data_parallel_rank", rank), ("data_parallel_start_rank", start)):
        if dest in args and first is not None and dp is not None and first >= dp:
            legal = tuple(range(dp))[:16]
            draft.refuse(f"{args.given[dest].name} {first}: there are {dp} dp ranks", legal, args.where(dest))
    draft.node = rank
    if "data_parallel_size_local" not in args:
        return 1
    local = args.number("data_parallel_size_local", minimum=0)
    if local is not None and dp is not None and local > dp:
        message = f"--data-parallel-size-local {local} is more than --data-parallel-size {dp}"
        draft.refuse(message, tuple(range(dp + 1))[:16], args.where("data_parallel_size_local"))
    if rank is None and start is not None:
        first_node = 1 if args.switch("headless") and start == 0 else 0
        draft.node = start // local + first_node if local else first_node
    if local is None or dp is None:
        return None
    nodes = dp // local if local and dp % local == 0 else 1
    draft.note("info", "derived", f"nodes {nodes}: {dp} dp ranks, {local} of them on this node")
    return max(1, nodes)


def _tell_dp(engine: _Engine, coupled: bool) -> None:
    if engine.dp == 1:
        return
    if not engine.moe and coupled:
        message = "module sizes couple the dp ranks; the engine resets dp to 1 for dense models and refuses them"
        engine.draft.note("warning", "approximation", message)
    elif coupled:
        engine.draft.note("info", "lockstep", "the dp ranks of a mixture of experts run in lockstep: attention dp")
    else:
        engine.draft.note("info", "replicas", "the dp ranks of a dense model are independent engines: replicas")
    if coupled and engine.pp not in (1, None):
        message = "ranks are ordered dp before pipeline stage here, stage before dp in a layout"
        engine.draft.note("info", "approximation", message)


def _experts(engine: _Engine, sizes: Sizes) -> None:
    args = engine.args
    span = times(engine.tp, engine.dp, engine.pcp)
    sizes.moe, sizes.num_experts = True, engine.experts
    sizes.expert_tp, sizes.expert_ep = (1, span) if engine.expert_parallel else (span, 1)
    sizes.shared = engine.tp
    _dispatch(engine, sizes)
    redundant = _balancing(engine, "num_redundant_experts", args.number("num_redundant_experts", 0, minimum=0), 0)
    if redundant and not args.switch("enable_eplb"):
        where = args.where("num_redundant_experts") or args.where("eplb_config")
        engine.draft.refuse(f"{redundant} redundant experts need --enable-eplb", (0,), where)
    ascend = engine.modules.balance
    redundant = ascend.counts.get("redundant", redundant)
    if engine.experts is not None and redundant is not None:
        sizes.slots = engine.experts + redundant
    if args.switch("enable_eplb"):
        sizes.policy = "global"
        sizes.interval = _balancing(engine, "step_interval", args.number("eplb_step_interval", 3000)) or 3000
        window = _balancing(engine, "window_size", args.number("eplb_window_size", 1000))
        carry_window(engine.draft, args, window, sizes.interval)
    elif ascend.dynamic:
        sizes.policy, sizes.interval = "global", ascend.counts.get("interval") or sizes.interval


def _balancing(engine: _Engine, key: str, default: Size, minimum: int = 1) -> Size:
    """A whole number of --eplb-config, which the engine also takes between quotes; a variable leaves it open."""
    value, where = engine.args.mapping("eplb_config").get(key), engine.args.where("eplb_config")
    name = open_name(value) if isinstance(value, str) else None
    if isinstance(value, str):
        number = whole_number(engine.draft.context.settings.get(name, "") if name else value)
    else:
        number = value if type(value) is int else None
    if number is not None and number >= minimum:
        return number
    if name and number is None:
        engine.draft.open(f"--eplb-config {key}", (name,), where)
        return None
    if value is not None:
        engine.draft.refuse(f"--eplb-config {key} {value}: a whole number of at least {minimum}", (), where)
    return default


def _dispatch(engine: _Engine, sizes: Sizes) -> None:
    word = engine.draft.document.environment.get("VLLM_ALL2ALL_BACKEND")
    backend = engine.args.text("all2all_backend", word.text if word else "")
    if word and "all2all_backend" not in engine.args:
        message = "VLLM_ALL2ALL_BACKEND is deprecated; use --all2all-backend"
        engine.draft.note("warning", "deprecated", message, word.where)
    if backend in ("naive", "pplx"):
        message = f"--all2all-backend {backend} was removed; the engine falls back to allgather_reducescatter"
        engine.draft.note("warning", "removed", message, engine.args.where("all2all_backend"))
        backend = "allgather_reducescatter"
    if backend and engine.expert_parallel:
        sizes.dispatch = "all_gather" if backend in _ALL_GATHER else "all_to_all"


def _reasons(engine: _Engine, sizes: Sizes) -> dict[str, str]:
    reasons = {f"{module}.tp": "as attention" for module in ("o_proj", "dense", "embedding", "lm_head")}
    if sizes.moe:
        reasons["shared_experts.tp"] = "as attention"
        if engine.expert_parallel:
            reasons["experts.ep"] = "tp x dp x pcp, by --enable-expert-parallel"
        else:
            reasons["experts.tp"] = "tp x dp x pcp, without --enable-expert-parallel"
    return reasons
