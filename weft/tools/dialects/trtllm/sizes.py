"""TensorRT-LLM's sizes: from what its commands and files state to the sizes of a layout, as the engine derives them.

T = tp, C = cp, P = pp: the world is T x C x P. Attention dp is all or nothing: attention tp 1, dp = T. The experts'
moe_tp x moe_ep x cluster must be T (T x C under Helix).
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.parallel.layout.counts import divisors
from weft.tools.dialects.base import Draft
from weft.tools.dialects.families import experts_of
from weft.tools.dialects.reading import divisor_values, explain, model_of
from weft.tools.dialects.sizes import Size, Sizes, divides, quotient, times, whole_number
from weft.tools.dialects.stated import Values
from weft.tools.dialects.trtllm.eplb import Balancer
from weft.tools.dialects.trtllm.flags import CP_TYPES

_MOE_SIZES = ("moe_expert_parallel_size", "moe_tensor_parallel_size", "moe_cluster_parallel_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """What the command and files of one engine state."""

    values: Values
    draft: Draft
    balancer: Balancer | None
    moe_config: bool
    """Whether there is a section that only a mixture of experts has."""
    tp: Size
    pp: Size
    cp: Size
    attention_dp: bool
    attention_open: bool
    """Whether enable_attention_dp depends on a variable."""
    cp_type: str


def derive_sizes(
    values: Values, draft: Draft, balancer: Balancer | None, moe_config: bool, replicas: Size = 1
) -> Sizes:
    """All sizes of one engine, with refusals and notes in the draft."""
    tp, pp, cp = (values.number(f"{name}_parallel_size") for name in ("tensor", "pipeline", "context"))
    attention_dp = values.open_switch("enable_attention_dp")
    engine = _Engine(
        values=values,
        draft=draft,
        balancer=balancer,
        moe_config=moe_config,
        tp=tp,
        pp=pp,
        cp=cp,
        attention_dp=bool(attention_dp),
        attention_open=attention_dp is None,
        cp_type=_cp_type(values, draft, cp),
    )
    return _derived(engine, replicas)


def _derived(engine: _Engine, replicas: Size) -> Sizes:
    attention = None if engine.attention_open else 1 if engine.attention_dp else engine.tp
    groups = None if engine.attention_open else engine.tp if engine.attention_dp else 1
    wide = times(engine.tp, engine.cp) if engine.cp_type == "HELIX" else attention
    sizes = Sizes(
        replicas=replicas,
        stages=engine.pp,
        layers=_layers(engine),
        tp=attention,
        dp=groups,
        cp=engine.cp,
        o_proj=wide,
        dense=wide,
        embedding=attention,
        lm_head=attention,
    )
    _defaults(engine)
    _lm_head(engine, sizes)
    _experts(engine, sizes)
    sizes.nodes = _nodes(engine, times(engine.tp, engine.cp, engine.pp, replicas))
    explain(engine.draft, sizes, _reasons(engine, sizes))
    return sizes


def _defaults(engine: _Engine) -> None:
    for name, default in (("tensor_parallel_size", "1"), ("pipeline_parallel_size", "1")):
        if name not in engine.values:
            engine.draft.note("info", "default", f"{name} is not given; the engine's default is {default}")
    if "enable_attention_dp" not in engine.values:
        engine.draft.note("info", "default", "enable_attention_dp is not given; the engine's default is false")


def _reasons(engine: _Engine, sizes: Sizes) -> dict[str, str]:
    alone = "enable_attention_dp: every rank has requests of its own"
    how = alone if engine.attention_dp else "as tensor_parallel_size"
    reasons = {"attention.tp": how, "embedding.tp": "as attention"} if not engine.attention_open else {}
    wide = "tp x cp under Helix" if engine.cp_type == "HELIX" else "as attention"
    reasons |= {"o_proj.tp": wide, "dense.tp": wide}
    if engine.attention_dp:
        reasons["attention.dp"] = "enable_attention_dp: tensor_parallel_size groups of one rank"
    if sizes.lm_head_within is None:
        reasons["lm_head.tp"] = "as attention"
    if sizes.moe:
        reasons["shared_experts.tp"] = wide
        if "moe_tensor_parallel_size" not in engine.values:
            reasons["experts.tp"] = "what moe_expert_parallel_size leaves of tensor_parallel_size"
        if "moe_expert_parallel_size" not in engine.values:
            given = "moe_tensor_parallel_size" in engine.values
            reasons["experts.ep"] = "what moe_tensor_parallel_size leaves" if given else "the engine's default"
    return reasons


def _cp_type(values: Values, draft: Draft, cp: Size) -> str:
    name = values.text("cp_type", "ULYSSES").upper()
    if name not in CP_TYPES:
        legal = ", ".join(CP_TYPES)
        draft.refuse(f"cp_type {values.text('cp_type')}: legal: {legal}", CP_TYPES, values.where("cp_type"))
        return "ULYSSES"
    if cp == 1:
        return "ULYSSES"
    if name == "ULYSSES":
        message = "Ulysses splits the positions outside attention and the heads inside it; read as attention cp"
        draft.note("warning", "approximation", message, values.where("context_parallel_size"))
    elif name == "STAR":
        message = "star attention is approximate, attention cp is exact; read as attention cp"
        draft.note("warning", "approximation", message)
    elif name == "RING":
        draft.note("info", "approximation", "ring attention passes keys from rank to rank; read as attention cp")
    return name


def _layers(engine: _Engine) -> tuple[int, ...] | None:
    stated = engine.values.given.get("pp_partition")
    if stated is None or stated.value is None:
        return None
    parts = stated.value
    if not isinstance(parts, list) or not all(type(part) is int and part > 0 for part in parts):
        engine.draft.refuse(f"pp_partition {parts}: not a list of layers", (), stated.where)
        return None
    if engine.pp is not None and len(parts) != engine.pp:
        message = f"pp_partition has {len(parts)} stages, but pipeline_parallel_size is {engine.pp}"
        engine.draft.refuse(message, (engine.pp,), stated.where)
        return None
    return tuple(parts)


def _lm_head(engine: _Engine, sizes: Sizes) -> None:
    values, draft = engine.values, engine.draft
    if not values.switch("enable_lm_head_tp_in_adp"):
        return
    where = values.where("enable_lm_head_tp_in_adp")
    if engine.attention_open:
        sizes.lm_head = None
        return
    if not engine.attention_dp:
        draft.refuse("enable_lm_head_tp_in_adp needs enable_attention_dp: true", (False,), where)
        return
    per_node = values.number("gpus_per_node", 8)
    if engine.tp is None or per_node is None:
        sizes.lm_head = None
        return
    sizes.lm_head = max(size for size in divisors(engine.tp) if size <= per_node and per_node % size == 0)
    sizes.lm_head_within = "node"
    message = "the engine chooses the lm_head's size at every step, by its rows; read as its largest, inside a node"
    draft.note("warning", "approximation", message, where)


def _experts(engine: _Engine, sizes: Sizes) -> None:
    values, draft = engine.values, engine.draft
    signs = [values.label(name) for name in _MOE_SIZES if values.number(name, 1, off=(-1,)) != 1]
    signs += ["moe_config"] if engine.moe_config and not signs else []
    moe, experts = experts_of(model_of(draft), ", ".join(signs), draft)
    if not moe:
        if signs and experts is None:
            draft.note("warning", "ignored", f"{', '.join(signs)}: the model is dense; read as dense")
        return
    world = times(engine.tp, engine.cp) if engine.cp_type == "HELIX" else engine.tp
    moe_tp, ep = _moe_sizes(engine, world)
    if ep not in (1, None) and engine.cp not in (1, None) and engine.cp_type != "HELIX":
        name = values.label("moe_expert_parallel_size")
        message = f"{name} {ep} with context parallelism {engine.cp}: only under Helix"
        draft.refuse(message, (1,), values.where("moe_expert_parallel_size"))
    sizes.moe, sizes.num_experts, sizes.expert_tp, sizes.expert_ep = True, experts, moe_tp, ep
    sizes.shared = sizes.dense
    sizes.slots = _spread(engine, experts, ep)
    if engine.balancer is not None:
        engine.balancer.apply(sizes, engine.attention_dp)
    if moe_tp not in (1, None) and ep not in (1, None):
        message = "neighbouring ranks hold different experts in the engine, shares of the same experts in weft"
        draft.note("info", "order", f"moe tp {moe_tp} x ep {ep}: {message}")


def _spread(engine: _Engine, experts: Size, ep: Size) -> Size:
    """One slot for each expert; some ranks get one less in the engine where ep does not divide them."""
    if experts is None or ep is None or divides(ep, experts):
        return experts
    slots = -(-experts // ep) * ep
    if engine.balancer is None:
        message = f"{experts} experts over ep {ep}: uneven in the engine, read as {slots} slots"
        engine.draft.note("warning", "approximation", message, engine.values.where("moe_expert_parallel_size"))
    return slots


def _moe_sizes(engine: _Engine, world: Size) -> tuple[Size, Size]:
    """moe tp and ep; one that is not given is what the others leave."""
    values, draft = engine.values, engine.draft
    given = {name: values.number(name, 0, off=(-1,)) for name in _MOE_SIZES}
    ep, moe_tp, cluster = (given[name] for name in _MOE_SIZES)
    cluster = _cluster(engine, cluster, ep)
    rest = 1 if cluster == 0 else cluster
    if moe_tp == 0 and ep == 0:
        moe_tp, ep = quotient(world, rest), 1
    elif moe_tp == 0:
        moe_tp = quotient(world, ep, rest)
    elif ep == 0:
        ep = quotient(world, moe_tp, rest)
    product = times(moe_tp, ep, rest)
    if product != world and product is not None and world is not None:
        parts = [f"{values.label(name)} {given[name]}" for name in _MOE_SIZES if given[name]]
        whole = "tensor_parallel_size" + (" x context_parallel_size" if engine.cp_type == "HELIX" else "")
        stated = times(*(given[name] or 1 for name in _MOE_SIZES))
        message = f"{' x '.join(parts)} = {stated}, but the product must be {whole} = {world}"
        draft.refuse(message, divisor_values(world), values.where(next(name for name in _MOE_SIZES if given[name])))
    return moe_tp, times(ep, rest) if rest != 1 else ep


def _cluster(engine: _Engine, cluster: Size, ep: Size) -> Size:
    if cluster in (0, 1):
        return cluster
    name, where = engine.values.label("moe_cluster_parallel_size"), engine.values.where("moe_cluster_parallel_size")
    if ep not in (0, 1, None):
        engine.draft.refuse(f"{name} {cluster} needs moe_expert_parallel_size 1, not {ep}", (1,), where)
    else:
        message = f"{name} {cluster}: deprecated, and refused by newer versions; read as expert parallelism"
        engine.draft.note("warning", "approximation", message, where)
    return cluster


def _nodes(engine: _Engine, world: Size) -> Size:
    values, draft = engine.values, engine.draft
    per_node = values.number("gpus_per_node", 0)
    if per_node == 0:
        return _launched_nodes(draft, world)
    if world is None or per_node is None:
        return None
    if world <= per_node or world % per_node == 0:
        return max(1, world // per_node)
    nodes = next(size for size in divisors(world) if world // size <= per_node)
    message = f"{world} ranks do not fill nodes of {per_node}; read as {nodes} nodes of {world // nodes}"
    draft.note("warning", "approximation", message, values.where("gpus_per_node"))
    return nodes


def _launched_nodes(draft: Draft, world: Size) -> Size:
    """Nodes that the launcher in front of the command asks for (srun -N 2)."""
    words = [word.text for word in draft.document.wrapper]
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name, _, inline = word.partition("=")
        number = inline if name == "--nodes" and inline else after if word in ("-N", "--nodes") else ""
        number = word[2:] if word.startswith("-N") and word != "-N" else number
        if (nodes := whole_number(number)) and divides(nodes, world):
            return nodes
    return 1
