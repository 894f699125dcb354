"""The sizes of an SGLang command, step by step as the engine derives and checks them."""

from __future__ import annotations

from dataclasses import dataclass

from weft.tools.dialects.base import Draft
from weft.tools.dialects.expert_options import carry_threshold, take_policy, take_slots
from weft.tools.dialects.flags import Arguments
from weft.tools.dialects.reading import divisor_values, explain, layers_of, mixture_of, refuse_divisor, refuse_node_rank
from weft.tools.dialects.sizes import Size, Sizes, divides, quotient, times

_MOE_SIGNS = ("ep_size", "enable_ep_moe", "enable_deepep_moe", "enable_eplb", "ep_num_redundant_experts", "moe_dp_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """What one command states."""

    args: Arguments
    draft: Draft
    tp: Size
    pp: Size
    dp: Size
    cp: Size
    dcp: Size
    nodes: Size
    backend: str
    dp_attention: bool


def derive_sizes(arguments: Arguments, draft: Draft) -> Sizes:
    """The sizes of one command, step by step as the engine derives them."""
    names = ("tp_size", "pp_size", "dp_size", "attn_cp_size", "dcp_size", "nnodes")
    tp, pp, dp, cp, dcp, nodes = map(arguments.number, names)
    engine = _Engine(
        args=arguments,
        draft=draft,
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        dcp=dcp,
        nodes=nodes,
        backend=_backend(arguments),
        dp_attention=_dp_attention(arguments, draft, dp),
    )
    return _derived(engine)


def _derived(engine: _Engine) -> Sizes:
    _check_stage(engine)
    groups = engine.dp if engine.dp_attention else 1
    attention = quotient(engine.tp, groups, engine.cp)
    sizes = Sizes(
        nodes=engine.nodes,
        replicas=1 if engine.dp_attention else engine.dp,
        stages=engine.pp,
        layers=layers_of(engine.draft, "SGLANG_PP_LAYER_PARTITION"),
        tp=attention,
        dp=groups,
        cp=engine.cp,
        kv_split=engine.dcp,
        o_proj=attention,
        dense=_dense(engine),
        embedding=attention if engine.dp_attention else engine.tp,
        lm_head=_lm_head(engine, attention),
    )
    sizes.stated_world = times(engine.tp, engine.pp, sizes.replicas)
    _experts(engine, sizes)
    _check_nodes(engine, sizes)
    explain(engine.draft, sizes, _reasons(engine, sizes))
    return sizes


def _reasons(engine: _Engine, sizes: Sizes) -> dict[str, str]:
    """Why the sizes that no flag names are what they are."""
    whole = "the whole tp group"
    reasons = {
        "attention.tp": "tp / (dp x attn-cp) under --enable-dp-attention" if engine.dp_attention else "tp / attn-cp",
        "o_proj.tp": "as attention",
        "embedding.tp": "as attention, under --enable-dp-attention" if engine.dp_attention else whole,
        "lm_head.tp": "as attention, by --enable-dp-lm-head" if sizes.lm_head != engine.tp else whole,
    }
    if "moe_dense_tp_size" not in engine.args:
        reasons["dense.tp"] = whole
    if sizes.moe:
        reasons["experts.tp"] = "tp / (ep x moe-dp)"
        reasons["shared_experts.tp"] = whole if sizes.shared != 1 else "whole on every rank"
        if "ep_size" not in engine.args and engine.backend != "none":
            reasons["experts.ep"] = f"--moe-a2a-backend {engine.backend} makes ep = tp"
    return reasons


def _backend(args: Arguments) -> str:
    if args.switch("enable_deepep_moe") and "moe_a2a_backend" not in args:
        return "deepep"
    return args.text("moe_a2a_backend", "none")


def _dp_attention(args: Arguments, draft: Draft, dp: Size) -> bool:
    """--enable-dp-attention counts only with more than one group; without it dp makes replicas."""
    asked = args.switch("enable_dp_attention")
    if asked and draft.document.program and "router" in draft.document.program[-1].text:
        draft.note("warning", "approximation", "the router starts --dp-size engines of their own: read as replicas")
        return False
    if asked and dp == 1:
        message = "--enable-dp-attention with one dp group: the engine turns it off without a word"
        draft.note("warning", "ignored", message, args.where("enable_dp_attention"))
        return False
    if not asked and dp != 1:
        draft.note("info", "replicas", "--dp-size without --enable-dp-attention makes replicas of the whole model")
    return asked


def _check_stage(engine: _Engine) -> None:
    """What the engine asserts about tp, dp, cp and dcp."""
    args, draft = engine.args, engine.draft
    groups = engine.dp if engine.dp_attention else 1
    if not divides(groups, engine.tp):
        refuse_divisor(draft, args, "dp_size", engine.dp, engine.tp, f"--enable-dp-attention divides tp {engine.tp}")
    elif not divides(times(groups, engine.cp), engine.tp):
        message = f"tp {engine.tp} must be a multiple of dp {groups} x attn-cp {engine.cp}"
        draft.refuse(message, divisor_values(quotient(engine.tp, groups)), args.where("attn_cp_size"))
    attention = quotient(engine.tp, groups, engine.cp)
    if not divides(engine.dcp, attention):
        refuse_divisor(draft, args, "dcp_size", engine.dcp, attention, f"attention's tp is {attention}")
    if args.switch("enable_dp_lm_head") and not engine.dp_attention:
        message = "--enable-dp-lm-head needs --enable-dp-attention with more than one dp group"
        if engine.dp == 1:  # the engine turns both off without a word
            draft.note("warning", "ignored", message, args.where("enable_dp_lm_head"))
        else:
            draft.refuse(message, (), args.where("enable_dp_lm_head"))


def _dense(engine: _Engine) -> int | None:
    """--moe-dense-tp-size is 1 or tp; otherwise the whole tp group shares the dense MLP."""
    given = engine.args.number("moe_dense_tp_size", engine.tp)
    if given not in (1, engine.tp, None):
        message = f"--moe-dense-tp-size {given}: only 1 or tp are supported"
        engine.draft.refuse(message, sorted({1, engine.tp or 1}), engine.args.where("moe_dense_tp_size"))
    return given


def _lm_head(engine: _Engine, attention: int | None) -> int | None:
    return attention if engine.dp_attention and engine.args.switch("enable_dp_lm_head") else engine.tp


def _experts(engine: _Engine, sizes: Sizes) -> None:
    args, draft = engine.args, engine.draft
    signs = [f"--{name.replace('_', '-')}" for name in _MOE_SIGNS if name in args]
    signs += [f"--moe-a2a-backend {engine.backend}"] if engine.backend != "none" else []
    moe, experts = mixture_of(draft, signs)
    if not moe:
        return
    ep, copies = _ep(engine), args.number("moe_dp_size")
    if not divides(times(ep, copies), engine.tp):
        refuse_divisor(draft, args, "ep_size", ep, quotient(engine.tp, copies), f"tp is {engine.tp}, moe-dp {copies}")
    if copies not in (1, None) and engine.pp not in (1, None):
        draft.refuse(f"--moe-dp-size {copies} needs --pp-size 1", (1,), args.where("moe_dp_size"))
    if copies not in (1, None) and ep is not None and ep > 1 and times(ep, copies) != engine.tp and engine.tp:
        draft.refuse(f"ep {ep} x moe-dp {copies} must be tp {engine.tp}", (), args.where("moe_dp_size"))
    sizes.moe, sizes.num_experts = True, experts
    sizes.expert_ep, sizes.expert_tp = ep, quotient(engine.tp, ep, copies)
    shared_alone = engine.backend != "none" or "SGLANG_SHARED_EXPERT_TP1" in draft.document.environment
    sizes.shared = 1 if shared_alone else engine.tp
    _dispatch(engine, sizes)
    _slots(engine, sizes, ep)


def _ep(engine: _Engine) -> int | None:
    ep = engine.args.number("ep_size", None)
    if "ep_size" not in engine.args:
        ep = engine.tp if engine.args.switch("enable_ep_moe") or engine.backend != "none" else 1
    elif engine.backend != "none" and ep != engine.tp:
        message = f"--moe-a2a-backend {engine.backend} makes ep = tp = {engine.tp}; --ep-size {ep} is overwritten"
        engine.draft.note("warning", "overwritten", message, engine.args.where("ep_size"))
        ep = engine.tp
    return ep


def _dispatch(engine: _Engine, sizes: Sizes) -> None:
    if engine.backend != "none":
        sizes.dispatch = "all_to_all"
    elif "moe_a2a_backend" in engine.args:
        sizes.dispatch = "all_gather"
    if engine.backend == "flashinfer" and (not engine.dp_attention or engine.dp != engine.tp):
        message = "--moe-a2a-backend flashinfer needs --enable-dp-attention and dp = tp"
        engine.draft.refuse(message, (), engine.args.where("moe_a2a_backend"))


def _slots(engine: _Engine, sizes: Sizes, ep: int | None) -> None:
    args = engine.args
    take_slots(args, sizes)
    if not args.switch("enable_eplb"):
        return
    if ep == 1:
        engine.draft.refuse("--enable-eplb needs --ep-size above 1", (), args.where("enable_eplb"))
    take_policy(args, sizes)
    carry_threshold(engine.draft, args)


def _check_nodes(engine: _Engine, sizes: Sizes) -> None:
    args, draft = engine.args, engine.draft
    rank = args.node_rank()
    if engine.nodes is None or engine.nodes > 1:
        draft.node = rank
    if engine.nodes is not None and engine.nodes > 1:
        if sizes.replicas not in (1, None):
            message = f"--dp-size {engine.dp} over {engine.nodes} nodes needs --enable-dp-attention"
            draft.refuse(message, (1,), args.where("dp_size"))
        if "dist_init_addr" not in args:
            draft.note("warning", "incomplete", "--nnodes above 1 needs --dist-init-addr", args.where("nnodes"))
    stage = times(engine.tp, engine.pp)
    if not divides(engine.nodes, stage):
        refuse_divisor(draft, args, "nnodes", engine.nodes, stage, f"tp x pp is {stage}")
    refuse_node_rank(draft, args, engine.nodes, rank)
    if engine.pp not in (1, None) and sizes.layers is None:
        message = "uneven stages: the engine gives the last stages the remaining layers, weft the first"
        draft.note("info", "approximation", message, args.where("pp_size"))
