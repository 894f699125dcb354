"""TensorRT-LLM's expert load balancer: slots, updates while serving, and where each slot's expert starts.

Its YAML stands alone, inside moe_config, or in a file that moe_config names.
"""

from __future__ import annotations

from weft.tools.dialects.base import Draft, Where
from weft.tools.dialects.sizes import Size, Sizes, divides
from weft.tools.dialects.sources.documents.documents import trees
from weft.tools.dialects.sources.documents.tree import Node
from weft.tools.dialects.stated import Values, named_file, report_repeated, report_unknown

KEYS = ("num_slots", "layer_updates_per_iter", "initial_global_assignments")
_SHOWN = 4


class Balancer:
    """What one load balancer states."""

    def __init__(self, draft: Draft, node: Node, missing: bool = False) -> None:
        self.draft, self.node = draft, node
        values = Values(draft)
        for key in KEYS[:2]:
            values.take(node, key, key)
        self.values = values
        self.slots = None if missing else values.number("num_slots", 0, minimum=0)
        self.updates = values.number("layer_updates_per_iter", 0, minimum=0)
        for key, entry in (node.entries or {}).items():
            if key not in KEYS:
                report_unknown(draft, entry, "load_balancer.", KEYS)
        self._options()

    def _options(self) -> None:
        if self.updates:
            self.draft.options["moe_config.load_balancer.layer_updates_per_iter"] = self.updates
        start = self.node.get("initial_global_assignments")
        if start is None or not start.entries:
            return
        if not any(item.elided for item in _lists(start)):
            self.draft.options["moe_config.load_balancer.initial_global_assignments"] = start.plain()
        if "expert_placement" not in self.draft.options:
            message = (
                "initial_global_assignments: weft takes them from a file that holds the load balancer alone"
                " (--expert-placement FILE); without it, experts begin in order"
            )
            self.draft.note("warning", "placement-file", message, start.where)

    def apply(self, sizes: Sizes, attention_dp: bool) -> None:
        """Sets slots and policy of a mixture's sizes; refuses what the engine refuses."""
        where = self.values.where("num_slots") or self.node.where
        self._check_assignments(sizes)
        if self.slots == 0:
            return
        if sizes.expert_ep == 1:
            message = "load_balancer: the engine ignores it without a word while moe_expert_parallel_size is 1"
            self.draft.note("warning", "ignored", message, where)
            return
        if not attention_dp:
            message = "load_balancer: newer versions ignore it without a word unless enable_attention_dp is on"
            self.draft.note("warning", "ignored", message, where)
        self._check_slots(sizes, where)
        sizes.slots = self.slots
        if self.updates:
            sizes.policy = "global"
            message = (
                f"layer_updates_per_iter {self.updates}: layers by number in the engine, by --eplb-bytes-per-step here"
            )
            self.draft.note("info", "approximation", message, self.values.where("layer_updates_per_iter"))

    def _check_slots(self, sizes: Sizes, where: Where) -> None:
        slots, ep, experts = self.slots, sizes.expert_ep, sizes.num_experts
        if slots is None or ep is None:
            return
        least = -(-max(experts or 1, 1) // ep) * ep
        legal = tuple(least + more * ep for more in range(_SHOWN))
        listed = ", ".join(map(str, legal))
        if not divides(ep, slots):
            self.draft.refuse(f"num_slots {slots}: not a multiple of ep {ep}; legal: {listed}, ...", legal, where)
        elif experts is not None and slots < experts:
            self.draft.refuse(f"num_slots {slots}: the model has {experts} experts; legal: {listed}, ...", legal, where)

    def _check_assignments(self, sizes: Sizes) -> None:
        """Every layer's list has one expert for each slot."""
        start = self.node.get("initial_global_assignments")
        for layer, entry in (start.entries if start is not None and start.entries else {}).items():
            items, count = entry.node.items, self.slots
            if items is None:
                message = f"initial_global_assignments, layer {layer}: a list of experts is wanted"
                self.draft.refuse(message, (), entry.where)
                return
            if entry.node.elided:
                continue
            if count and len(items) != count:
                message = f"initial_global_assignments, layer {layer}: {len(items)} entries, but num_slots is {count}"
                self.draft.refuse(message, (count,), entry.where)
                return
            self._check_experts(layer, items, sizes.num_experts, entry.where)

    def _check_experts(self, layer: str, items: list[Node], experts: Size, where: Where) -> None:
        for item in items:
            number = item.scalar
            if type(number) is not int or number < 0 or experts is not None and number >= experts:
                most = f" below {experts}" if experts is not None else ""
                message = f"initial_global_assignments, layer {layer}: {number} is not an expert's number{most}"
                self.draft.refuse(message, (), where)
                return


def balancer_of(draft: Draft, node: Node | None) -> Balancer | None:
    """The balancer that `load_balancer` gives: a mapping, or the name of a file."""
    if node is None or node.entries is None and node.scalar is None:
        return None
    if node.entries is not None:
        return Balancer(draft, node)
    path = str(node.scalar)
    file = named_file(draft.document, draft.context, path)
    if file is None:
        message = f"the file {path} is not in the text; its num_slots is unknown"
        draft.note("warning", "config-file", message, node.where)
        return Balancer(draft, Node(node.where, entries={}), missing=True)
    tree = trees(file.text, file.line)[0]
    draft.notes += tree.notes
    if tree.problem is not None:
        draft.refuse(f"{path}, {tree.problem.where}: {tree.problem.message}", (), tree.problem.where)
    if tree.root is None:
        return None
    report_repeated(draft, tree.root, KEYS)
    if tree.root.get("initial_global_assignments") is not None:
        draft.options["expert_placement"] = path
    return Balancer(draft, tree.root)


def _lists(node: Node) -> list[Node]:
    return [node, *(entry.node for entry in (node.entries or {}).values())]
