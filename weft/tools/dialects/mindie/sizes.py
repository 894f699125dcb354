"""MindIE's sizes: from a ModelConfig's keys to the sizes of a layout, with what the engine and its documents refuse.

tp x cp x dp (x pp) is the world, moe_tp x moe_ep too; -1 is off. sp is tp: the KV cache split over the tp ranks.
The local sizes of lm_head and o_proj stay inside a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weft.tools.dialects.base import Draft
from weft.tools.dialects.mindie.keys import SIZES
from weft.tools.dialects.mindie.modules import OFF, Modules
from weft.tools.dialects.reading import divisor_values, explain
from weft.tools.dialects.sizes import Size, Sizes, divides, quotient, times, whole_number
from weft.tools.dialects.stated import Values


@dataclass(frozen=True, slots=True)
class Deployment:
    """What stands around a ModelConfig: devices of a node, instances, and whether several nodes serve together."""

    devices: Size = None
    """Entries of npuDeviceIds for one instance; None: not given."""
    instances: Size = 1
    pods: Size = None
    """Nodes of one instance, where a deployment says them."""
    spread: bool = False
    """The world is larger than worldSize says: several nodes, or a server for each rank."""
    backend: str = "atb"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What a ModelConfig and its surroundings state."""

    values: Values
    draft: Draft
    around: Deployment
    given: Mapping[str, Size]
    """Sizes by their keys; 0: not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine(_Model):
    """Attention's sizes follow from the world: ranks of one instance."""

    world: Size
    tp: Size
    dp: Size
    cp: Size
    pp: Size


def derive_sizes(values: Values, draft: Draft, around: Deployment, signs: str) -> Sizes:
    """All sizes of one model, with refusals and notes in the draft; `signs` names what asks for a mixture."""
    given = {name: values.number(name, 0, off=OFF) for name in SIZES[1:]}
    model = _Model(values=values, draft=draft, around=around, given=given)
    world = _world(model)
    tp, dp, cp, pp = _attention(model, world)
    engine = _Engine(values=values, draft=draft, around=around, given=given, world=world, tp=tp, dp=dp, cp=cp, pp=pp)
    return _derived(engine, signs)


def _derived(engine: _Engine, signs: str) -> Sizes:
    sizes = Sizes(
        replicas=engine.around.instances,
        stages=engine.pp,
        tp=engine.tp,
        dp=engine.dp,
        cp=engine.cp,
        kv_split=_kv_split(engine),
        o_proj=engine.tp,
        dense=engine.tp,
        embedding=engine.tp,
        lm_head=engine.tp,
    )
    _check_context(engine, sizes)
    nodes = _nodes(engine)
    sizes.nodes = times(nodes, engine.around.instances) if nodes not in (1, None) else nodes
    modules = Modules(engine.values, engine.draft, engine.world, engine.tp, engine.pp)
    modules.local(sizes, nodes)
    modules.experts(sizes, signs)
    explain(engine.draft, sizes, _reasons(engine, sizes))
    return sizes


def _reasons(engine: _Engine, sizes: Sizes) -> dict[str, str]:
    reasons = {"embedding.tp": "as attention"}
    if sizes.o_proj_within is None:
        reasons["o_proj.tp"] = "as attention: o_proj_local_tp is off"
    if sizes.lm_head_within is None:
        reasons["lm_head.tp"] = "as attention: lm_head_local_tp is off"
    if engine.values.number("dense_mlp_local_tp", 0, off=OFF) == 0:
        reasons["dense.tp"] = "as attention"
    if not engine.given["tp"]:
        reasons["attention.tp"] = "what dp, cp and pp leave of worldSize"
    if not engine.given["dp"]:
        reasons["attention.dp"] = "what tp, cp and pp leave of worldSize"
    if sizes.moe:
        reasons["shared_experts.tp"] = "as attention"
        if not engine.given["moe_tp"]:
            reasons["experts.tp"] = "what moe_ep leaves of worldSize"
        if not engine.given["moe_ep"]:
            reasons["experts.ep"] = "what moe_tp leaves of worldSize" if engine.given["moe_tp"] else "off by default"
    return reasons


def _product(model: _Model) -> Size:
    """The ranks that the given sizes ask for; 0 where none is given."""
    names = [name for name in ("tp", "dp", "cp", "pp") if model.given[name] != 0]
    return times(*(model.given[name] for name in names)) if names else 0


def _world(model: _Model) -> Size:
    """Ranks of one instance: worldSize, except where several nodes or servers make up a larger world."""
    stated = model.values.number("worldSize", 0)
    devices, product = model.around.devices, _product(model)
    if stated == 0:
        return _world_unstated(model, product, devices)
    if stated is None or product is None:
        return stated
    where = model.values.where("worldSize")
    experts = times(model.given["moe_tp"] or 1, model.given["moe_ep"] or 1)
    agreed = product > stated and experts == product  # both say the same world, of several nodes
    spread = model.around.spread or stated == 1 and product > 1 or agreed
    if spread and product > stated and product % stated == 0:
        message = f"worldSize {stated} is what one server sees; the sizes make a world of {product}"
        model.draft.note("warning", "approximation", message, where)
        return product
    if spread and not product and experts is not None and experts > stated and experts % stated == 0:
        model.draft.note("warning", "approximation", f"moe_tp x moe_ep make a world of {experts}", where)
        return experts
    if spread and not product:
        pods = model.around.pods
        return times(stated, pods) if pods else _open_world(model, "with several nodes the rank table says the world")
    if devices is not None and devices != stated and not model.around.spread:
        message = f"worldSize {stated}, but npuDeviceIds has {devices} devices"
        model.draft.refuse(message, (devices,), where)
    return stated


def _world_unstated(model: _Model, product: Size, devices: Size) -> Size:
    if product:
        message = f"worldSize is not given; the sizes that are make a world of {product}"
    elif devices:
        message = f"worldSize is not given; npuDeviceIds has {devices} devices"
    else:
        return _open_world(model, "worldSize is not given")
    model.draft.note("info", "default", message)
    return product or devices


def _open_world(model: _Model, why: str) -> Size:
    """The world that --set worldSize gives, or none."""
    if given := whole_number(model.draft.context.settings.get("worldSize", "")):
        return given
    message = f"{why}: sizes that follow from it stay open (--set worldSize=N)"
    model.draft.note("warning", "open", message, model.values.where("worldSize"))
    return None


def _attention(model: _Model, world: Size) -> tuple[Size, Size, Size, Size]:
    """tp, dp, cp and pp: what is not given is what the others leave of the world."""
    tp, dp, cp, pp = (model.given[name] for name in ("tp", "dp", "cp", "pp"))
    cp, pp = 1 if cp == 0 else cp, 1 if pp == 0 else pp
    alone = dp == 0
    if tp == 0:
        dp = 1 if alone else dp
        tp = quotient(world, dp, cp, pp)
        return tp, dp, cp, pp
    if alone:
        dp = 1 if world is None or times(tp, cp, pp) == world else quotient(world, tp, cp, pp)
    product = times(tp, dp, cp, pp)
    if product is None or world is None:
        return tp, dp, cp, pp
    where = model.values.where("tp")
    if product != world:
        factors = {"tp": tp, "dp": dp, "cp": cp, "pp": pp}
        shown = [f"{name} {size}" for name, size in factors.items() if size != 1 or name in ("tp", "dp")]
        stated = model.values.where("worldSize")
        place = f" ({stated})" if stated else ""
        message = f"{' x '.join(shown)} = {product}, but worldSize is {world}{place}"
        model.draft.refuse(message, divisor_values(world), where)
    elif alone and dp != 1:
        message = (
            f"tp {tp} without dp: the engine's own check wants tp x dp x cp = worldSize {world}; "
            f"read as dp {dp}, what tp leaves of worldSize"
        )
        model.draft.note("warning", "documented-example", message, where)
    return tp, dp, cp, pp


def _kv_split(engine: _Engine) -> Size:
    sp = engine.given["sp"]
    if sp == 0 or sp == 1:
        return 1
    if sp is not None and engine.tp is not None and sp != engine.tp:
        legal = tuple(dict.fromkeys((1, engine.tp)))
        message = f"sp {sp}: must be tp {engine.tp}, or 1 for off"
        engine.draft.refuse(message, legal, engine.values.where("sp"))
        return 1
    return sp


def _check_context(engine: _Engine, sizes: Sizes) -> None:
    """What the documents say about cp and pp beside the other sizes."""
    draft, values = engine.draft, engine.values
    for name in ("dp", "cp", "sp"):
        if name in values and values.given[name].value == -1:
            message = f"{name} -1: off by the documents, refused by some versions: better leave it out"
            draft.note("info", "version", message, values.where(name))
    if engine.cp not in (1, None):
        _check_cp(engine, sizes)
    if engine.pp not in (1, None) and engine.dp not in (1, None):
        draft.refuse(f"pp {engine.pp} with dp {engine.dp}: one of them must be 1", (1,), values.where("pp"))


def _check_cp(engine: _Engine, sizes: Sizes) -> None:
    draft, where, torch = engine.draft, engine.values.where("cp"), engine.around.backend == "torch"
    if engine.cp is not None and engine.cp > 2:
        message = f"cp {engine.cp}: the documents allow 1 and 2"
        if torch:
            message += "; newer examples of the torch backend give more"
            draft.note("warning", "documented-example", message, where)
        else:
            draft.refuse(message, (1, 2), where)
    if sizes.kv_split == 1 and engine.tp not in (1, None):
        draft.refuse(f"cp {engine.cp} needs sp = tp = {engine.tp}", (1,), where)
    if engine.dp not in (1, None):
        draft.refuse(f"cp {engine.cp} with dp {engine.dp}: dp must be 1", (1,), where)


def _nodes(engine: _Engine) -> Size:
    """Nodes of one instance."""
    around, draft = engine.around, engine.draft
    if around.pods is not None and divides(around.pods, engine.world):
        return around.pods
    stated = engine.values.number("worldSize", 0) or 0
    spread = around.spread or engine.world is not None and 1 < stated < engine.world
    if not spread or engine.world is None:
        return None if spread else 1
    local = [engine.values.number(name, 0, off=OFF) or 0 for name in ("lm_head_local_tp", "o_proj_local_tp")]
    hints = [around.devices or 0, *local, stated if stated < engine.world else 0]
    per_node = max([size for size in hints if size > 1] or [8])
    if engine.world <= per_node:
        return 1
    nodes = engine.world // per_node if divides(per_node, engine.world) else 1
    draft.note("info", "default", f"{nodes} nodes of {engine.world // nodes} devices each; the rank table decides")
    return nodes
