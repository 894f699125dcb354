"""MindIE's sizes: from a ModelConfig's keys to the sizes of a layout, with what the engine and its documents refuse.

tp x cp x dp (x pp) is the world, moe_tp x moe_ep too; -1 is off. sp is tp: the KV cache split over the tp ranks.
The local sizes of lm_head and o_proj stay inside a node.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.dialects.base import Draft
from weft.dialects.mindie.keys import SIZES
from weft.dialects.mindie.modules import OFF, Modules
from weft.dialects.reading import divisor_values, explain
from weft.dialects.sizes import Size, Sizes, divides, quotient, times, whole_number
from weft.dialects.stated import Values


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands around a ModelConfig: devices of a node, instances, and whether several nodes serve together."""

    devices: Size = None
    """Entries of npuDeviceIds for one instance; None: not given."""
    instances: Size = 1
    pods: Size = None
    """Nodes of one instance, where a deployment says them."""
    spread: bool = False
    """The world is larger than worldSize says: several nodes, or a server for each rank."""
    backend: str = "atb"


class Derivation:
    """The sizes of one model."""

    def __init__(self, values: Values, draft: Draft, around: Surroundings, signs: str) -> None:
        self.values, self.draft, self.around, self.signs = values, draft, around, signs
        self.given = {name: values.number(name, 0, off=OFF) for name in SIZES[1:]}
        self.world = self._world()
        self.tp, self.dp, self.cp, self.pp = self._attention()

    def sizes(self) -> Sizes:
        """All sizes, with refusals and notes in the draft."""
        sizes = Sizes(
            replicas=self.around.instances,
            stages=self.pp,
            tp=self.tp,
            dp=self.dp,
            cp=self.cp,
            kv_split=self._kv_split(),
            o_proj=self.tp,
            dense=self.tp,
            embedding=self.tp,
            lm_head=self.tp,
        )
        self._check_context(sizes)
        nodes = self._nodes()
        sizes.nodes = times(nodes, self.around.instances) if nodes not in (1, None) else nodes
        modules = Modules(self.values, self.draft, self.world, self.tp, self.pp)
        modules.local(sizes, nodes)
        modules.experts(sizes, self.signs)
        explain(self.draft, sizes, self._reasons(sizes))
        return sizes

    def _reasons(self, sizes: Sizes) -> dict[str, str]:
        reasons = {"embedding.tp": "as attention"}
        if sizes.o_proj_within is None:
            reasons["o_proj.tp"] = "as attention: o_proj_local_tp is off"
        if sizes.lm_head_within is None:
            reasons["lm_head.tp"] = "as attention: lm_head_local_tp is off"
        if self.values.number("dense_mlp_local_tp", 0, off=OFF) == 0:
            reasons["dense.tp"] = "as attention"
        if not self.given["tp"]:
            reasons["attention.tp"] = "what dp, cp and pp leave of worldSize"
        if not self.given["dp"]:
            reasons["attention.dp"] = "what tp, cp and pp leave of worldSize"
        if sizes.moe:
            reasons["shared_experts.tp"] = "as attention"
            if not self.given["moe_tp"]:
                reasons["experts.tp"] = "what moe_ep leaves of worldSize"
            if not self.given["moe_ep"]:
                reasons["experts.ep"] = "what moe_tp leaves of worldSize" if self.given["moe_tp"] else "off by default"
        return reasons

    def _product(self) -> Size:
        """The ranks that the given sizes ask for; 0 where none is given."""
        names = [name for name in ("tp", "dp", "cp", "pp") if self.given[name] != 0]
        return times(*(self.given[name] for name in names)) if names else 0

    def _world(self) -> Size:
        """Ranks of one instance: worldSize, except where several nodes or servers make up a larger world."""
        stated = self.values.number("worldSize", 0)
        devices, product = self.around.devices, self._product()
        if stated == 0:
            return self._world_unstated(product, devices)
        if stated is None or product is None:
            return stated
        where = self.values.where("worldSize")
        spread = self.around.spread or stated == 1 and product > 1
        if spread and product > stated and product % stated == 0:
            message = f"worldSize {stated} is what one server sees; the sizes make a world of {product}"
            self.draft.note("warning", "approximation", message, where)
            return product
        moe = times(self.given["moe_tp"] or 1, self.given["moe_ep"] or 1)
        if spread and not product and moe is not None and moe > stated and moe % stated == 0:
            self.draft.note("warning", "approximation", f"moe_tp x moe_ep make a world of {moe}", where)
            return moe
        if spread and not product:
            pods = self.around.pods
            return times(stated, pods) if pods else self._open_world("with several nodes the rank table says the world")
        if devices is not None and devices != stated and not self.around.spread:
            message = f"worldSize {stated}, but npuDeviceIds has {devices} devices"
            self.draft.refuse(message, (devices,), where)
        return stated

    def _world_unstated(self, product: Size, devices: Size) -> Size:
        if product:
            message = f"worldSize is not given; the sizes that are make a world of {product}"
        elif devices:
            message = f"worldSize is not given; npuDeviceIds has {devices} devices"
        else:
            return self._open_world("worldSize is not given")
        self.draft.note("info", "default", message)
        return product or devices

    def _open_world(self, why: str) -> Size:
        """The world that --set worldSize gives, or none."""
        if given := whole_number(self.draft.context.settings.get("worldSize", "")):
            return given
        message = f"{why}: sizes that follow from it stay open (--set worldSize=N)"
        self.draft.note("warning", "open", message, self.values.where("worldSize"))
        return None

    def _attention(self) -> tuple[Size, Size, Size, Size]:
        """tp, dp, cp and pp: what is not given is what the others leave of the world."""
        tp, dp, cp, pp = (self.given[name] for name in ("tp", "dp", "cp", "pp"))
        cp, pp = 1 if cp == 0 else cp, 1 if pp == 0 else pp
        alone = dp == 0
        if tp == 0:
            dp = 1 if alone else dp
            tp = quotient(self.world, dp, cp, pp)
            return tp, dp, cp, pp
        if alone:
            dp = 1 if self.world is None or times(tp, cp, pp) == self.world else quotient(self.world, tp, cp, pp)
        product = times(tp, dp, cp, pp)
        if product is None or self.world is None:
            return tp, dp, cp, pp
        where = self.values.where("tp")
        if product != self.world:
            factors = {"tp": tp, "dp": dp, "cp": cp, "pp": pp}
            shown = [f"{name} {size}" for name, size in factors.items() if size != 1 or name in ("tp", "dp")]
            stated = self.values.where("worldSize")
            place = f" ({stated})" if stated else ""
            message = f"{' x '.join(shown)} = {product}, but worldSize is {self.world}{place}"
            self.draft.refuse(message, divisor_values(self.world), where)
        elif alone and dp != 1:
            message = (
                f"tp {tp} without dp: the engine's own check wants tp x dp x cp = worldSize {self.world}; "
                f"read as dp {dp}, what tp leaves of worldSize"
            )
            self.draft.note("warning", "documented-example", message, where)
        return tp, dp, cp, pp

    def _kv_split(self) -> Size:
        sp = self.given["sp"]
        if sp == 0 or sp == 1:
            return 1
        if sp is not None and self.tp is not None and sp != self.tp:
            legal = tuple(dict.fromkeys((1, self.tp)))
            message = f"sp {sp}: must be tp {self.tp}, or 1 for off"
            self.draft.refuse(message, legal, self.values.where("sp"))
            return 1
        return sp

    def _check_context(self, sizes: Sizes) -> None:
        """What the documents say about cp and pp beside the other sizes."""
        draft, values = self.draft, self.values
        for name in ("dp", "cp", "sp"):
            if name in values and values.given[name].value == -1:
                message = f"{name} -1: off by the documents, refused by some versions: better leave it out"
                draft.note("info", "version", message, values.where(name))
        if self.cp not in (1, None):
            self._check_cp(sizes)
        if self.pp not in (1, None) and self.dp not in (1, None):
            draft.refuse(f"pp {self.pp} with dp {self.dp}: one of them must be 1", (1,), values.where("pp"))

    def _check_cp(self, sizes: Sizes) -> None:
        draft, where, torch = self.draft, self.values.where("cp"), self.around.backend == "torch"
        if self.cp is not None and self.cp > 2:
            message = f"cp {self.cp}: the documents allow 1 and 2"
            if torch:
                message += "; newer examples of the torch backend give more"
                draft.note("warning", "documented-example", message, where)
            else:
                draft.refuse(message, (1, 2), where)
        if sizes.kv_split == 1 and self.tp not in (1, None):
            draft.refuse(f"cp {self.cp} needs sp = tp = {self.tp}", (1,), where)
        if self.dp not in (1, None):
            draft.refuse(f"cp {self.cp} with dp {self.dp}: dp must be 1", (1,), where)

    def _nodes(self) -> Size:
        """Nodes of one instance."""
        around, draft = self.around, self.draft
        if around.pods is not None and divides(around.pods, self.world):
            return around.pods
        if not around.spread or self.world is None:
            return None if around.spread else 1
        stated = self.values.number("worldSize", 0) or 0
        local = [self.values.number(name, 0, off=OFF) or 0 for name in ("lm_head_local_tp", "o_proj_local_tp")]
        hints = [around.devices or 0, *local, stated if stated < self.world else 0]
        per_node = max([size for size in hints if size > 1] or [8])
        if self.world <= per_node:
            return 1
        nodes = self.world // per_node if divides(per_node, self.world) else 1
        draft.note("info", "default", f"{nodes} nodes of {self.world // nodes} devices each; the rank table decides")
        return nodes
