"""MindIE's sizes: from a ModelConfig's keys to the sizes of a layout, with what the engine and its documents refuse.

tp x cp x dp (x pp) is the world, moe_tp x moe_ep too; -1 is off. sp is tp: the KV cache split over the tp ranks.
The local sizes of lm_head and o_proj stay inside a node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from weft.dialects.base import Draft
from weft.dialects.families import experts_of
from weft.dialects.reading import divisor_values, explain, model_of
from weft.dialects.sizes import Size, Sizes, divides, quotient, times
from weft.dialects.stated import Values

OFF = (-1,)
_DEEPSEEK = re.compile(r"(?i)deepseek[-_]?(?:v3(?:\.[12])?|r1|v2)|deepseekv[23]|\bdsv3|\bds[-_]?r1")
Within = Literal["node"] | None


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
        self.given = {name: values.number(name, 0, off=OFF) for name in ("tp", "dp", "cp", "sp", "pp", "moe_tp", "moe_ep")}
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
        self._local(sizes, nodes)
        self._experts(sizes)
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
            self.draft.note("warning", "open", "worldSize is not given: sizes that follow from it stay open (--set worldSize=N)")
            text = self.draft.context.settings.get("worldSize", "")
            return int(text) if text.isdigit() and int(text) else None
        self.draft.note("info", "default", message)
        return product or devices

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
            message = f"{' x '.join(shown)} = {product}, but worldSize is {self.world} ({self.values.where('worldSize')})"
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
        for name in ("tp", "dp", "cp", "sp", "pp", "moe_tp", "moe_ep"):
            if name in ("dp", "cp", "sp") and name in values and values.given[name].value == -1:
                message = f"{name} -1: off by the documents; some versions refuse it where the key stands: leave it out"
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
                draft.note("warning", "documented-example", f"{message}; newer examples of the torch backend give more", where)
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
            return 1
        stated = self.values.number("worldSize", 0) or 0
        local = [self.values.number(name, 0, off=OFF) or 0 for name in ("lm_head_local_tp", "o_proj_local_tp")]
        per_node = max([size for size in (around.devices or 0, *local, *([stated] if stated < self.world else [])) if size > 1] or [8])
        if self.world <= per_node:
            return 1
        nodes = self.world // per_node if divides(per_node, self.world) else 1
        draft.note("info", "default", f"{nodes} nodes of {self.world // nodes} devices each; the rank table decides")
        return nodes

    def _local(self, sizes: Sizes, nodes: Size) -> None:
        """The local sizes of lm_head and o_proj, and of the dense MLP."""
        per_node = quotient(self.world, nodes)
        lm_head = self._local_size("lm_head_local_tp", per_node)
        o_proj = self._local_size("o_proj_local_tp", per_node)
        if o_proj != 0 and self.tp not in (1, None):
            message = f"o_proj_local_tp {o_proj} cannot be enabled together with tp {self.tp}; legal: -1, or tp 1"
            self.draft.refuse(message, (-1,), self.values.where("o_proj_local_tp"))
        if lm_head != 0 and self.tp not in (1, None):
            message = f"lm_head_local_tp {lm_head} with tp {self.tp}: advised against, and refused by some versions"
            self.draft.note("warning", "advised-against", message, self.values.where("lm_head_local_tp"))
        if lm_head != 0:
            sizes.lm_head, sizes.lm_head_within = lm_head, "node"
        if o_proj != 0:
            sizes.o_proj, sizes.o_proj_within = o_proj, "node"
        dense = self.values.number("dense_mlp_local_tp", 0, off=OFF)
        if dense != 0:
            self._check_dense(dense, per_node)
            sizes.dense = dense

    def _local_size(self, name: str, per_node: Size) -> Size:
        """A size inside a node, 0 for off. 1 counts as off, as in the engine."""
        size, draft, where = self.values.number(name, 0, off=OFF), self.draft, self.values.where(name)
        if size == 0:
            return 0
        if not self._supported():
            message = f"{name}: only DeepSeek-R1, V3 and V3.1 support it; the engine warns and goes on without it"
            draft.note("warning", "ignored", message, where)
            return 0
        if size == 1:
            return 0
        if size is not None and per_node is not None and size > per_node:
            legal = (-1, *divisor_values(per_node))
            listed = ", ".join(map(str, legal))
            draft.refuse(f"{name} {size}: [1, worldSize / nodes] = [1, {per_node}]; legal: {listed}", legal, where)
            return 0
        if not divides(size, per_node):
            legal = (-1, *divisor_values(per_node))
            listed = ", ".join(map(str, legal))
            draft.refuse(f"{name} {size}: does not divide the {per_node} ranks of a node; legal: {listed}", legal, where)
            return 0
        return size

    def _supported(self) -> bool:
        names = f"{model_of(self.draft)} {self.draft.options.get('served_model_name', '')}".strip()
        return not names or _DEEPSEEK.search(names) is not None

    def _check_dense(self, dense: Size, per_node: Size) -> None:
        where = self.values.where("dense_mlp_local_tp")
        if dense is not None and per_node is not None and dense > per_node and dense != self.world:
            message = f"dense_mlp_local_tp {dense}: at most the {per_node} ranks of a node, or the world {self.world}"
            self.draft.refuse(message, divisor_values(per_node), where)
        elif dense is not None and self.tp not in (1, None) and self.tp is not None and dense <= self.tp:
            self.draft.refuse(f"dense_mlp_local_tp {dense}: must exceed tp {self.tp}", (), where)

    def _experts(self, sizes: Sizes) -> None:
        draft, values = self.draft, self.values
        names = f"{model_of(draft)} {draft.options.get('served_model_name', '')}".strip()
        moe, experts = experts_of(names, self.signs, draft)
        if not moe:
            return
        stage = quotient(self.world, self.pp)
        moe_tp, ep = self.given["moe_tp"], self.given["moe_ep"]
        if moe_tp == 0 and ep == 0:
            moe_tp, ep = stage, 1
        elif moe_tp == 0:
            moe_tp = quotient(stage, ep)
        elif ep == 0:
            ep = quotient(stage, moe_tp)
        product = times(moe_tp, ep)
        if product is not None and stage is not None and product != stage:
            message = f"moe_tp {moe_tp} x moe_ep {ep} = {product}, but worldSize is {stage}"
            where = values.where("moe_ep") or values.where("moe_tp")
            draft.refuse(message, divisor_values(stage), where)
        if self.given["moe_tp"] == 0 and self.given["moe_ep"] == 0 and self.tp != stage:
            message = f"neither moe_tp nor moe_ep is given: read as moe_tp {stage}, the whole world"
            draft.note("warning", "default", message)
        sizes.moe, sizes.num_experts, sizes.expert_tp, sizes.expert_ep = True, experts, moe_tp, ep
        sizes.shared = sizes.tp
        self._level(sizes)
        self._slots(sizes)

    def _level(self, sizes: Sizes) -> None:
        level = self.values.number("ep_level", 0)
        if level not in (0, 1, 2, None):
            self.draft.refuse(f"ep_level {level}: legal: 1, 2", (1, 2), self.values.where("ep_level"))
        if level == 2 and sizes.expert_tp not in (1, None):
            message = f"ep_level 2 needs moe_tp 1, not {sizes.expert_tp}"
            self.draft.refuse(message, (1,), self.values.where("ep_level"))
        if level in (1, 2):
            sizes.dispatch = "all_gather" if level == 1 else "all_to_all"

    def _slots(self, sizes: Sizes) -> None:
        level = self.values.number("eplb.level", 0, minimum=0)
        redundant = self.values.number("eplb.num_redundant_experts", 0, minimum=0)
        if sizes.num_experts is not None and redundant is not None:
            sizes.slots = sizes.num_experts + (redundant if level else 0)
        if redundant and not level:
            message = f"num_redundant_experts {redundant} has no effect while eplb.level is 0"
            self.draft.note("warning", "ignored", message, self.values.where("eplb.num_redundant_experts"))
        if level == 2:
            sizes.policy = "global"
