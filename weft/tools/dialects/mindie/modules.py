"""MindIE's modules with sizes of their own: lm_head, o_proj and dense MLP inside a node, and the experts."""

from __future__ import annotations

import re

from weft.tools.dialects.base import Draft
from weft.tools.dialects.families import experts_of, family
from weft.tools.dialects.reading import divisor_values, model_of
from weft.tools.dialects.sizes import Size, Sizes, divides, quotient, times
from weft.tools.dialects.stated import Values

OFF = (-1,)
"""Values that switch a size off."""

_DEEPSEEK = re.compile(r"(?i)deepseek[-_]?(?:v3(?:\.[12])?|r1|v2)|deepseekv[23]|\bdsv3|\bds[-_]?r1")


class Modules:
    """Sets the sizes of modules from what a file states; `world` is one instance's."""

    def __init__(self, values: Values, draft: Draft, world: Size, tp: Size, pp: Size) -> None:
        self.values, self.draft = values, draft
        self.world, self.tp, self.pp = world, tp, pp

    def local(self, sizes: Sizes, nodes: Size) -> None:
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
            message = f"{name} {size}: does not divide the {per_node} ranks of a node; legal: {listed}"
            draft.refuse(message, legal, where)
            return 0
        return size

    def _supported(self) -> bool:
        """Only some DeepSeek models have the local sizes; an unknown name gets the benefit of the doubt."""
        names = self._names()
        return family(names) is None or _DEEPSEEK.search(names) is not None

    def _names(self) -> str:
        return f"{model_of(self.draft)} {self.draft.options.get('served_model_name', '')}".strip()

    def _check_dense(self, dense: Size, per_node: Size) -> None:
        where = self.values.where("dense_mlp_local_tp")
        if dense is not None and per_node is not None and dense > per_node and dense != self.world:
            message = f"dense_mlp_local_tp {dense}: at most the {per_node} ranks of a node, or the world {self.world}"
            self.draft.refuse(message, divisor_values(per_node), where)
        elif dense is not None and self.tp not in (1, None) and self.tp is not None and dense <= self.tp:
            self.draft.refuse(f"dense_mlp_local_tp {dense}: must exceed tp {self.tp}", (), where)

    def experts(self, sizes: Sizes, signs: str) -> None:
        """The experts of a mixture; `signs` names what in the file asks for one."""
        draft, values = self.draft, self.values
        moe, experts = experts_of(self._names(), signs, draft)
        if not moe:
            return
        stage = quotient(self.world, self.pp)
        given_tp, given_ep = values.number("moe_tp", 0, off=OFF), values.number("moe_ep", 0, off=OFF)
        moe_tp, ep = given_tp, given_ep
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
        if given_tp == 0 and given_ep == 0 and self.tp != stage:
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
