"""The sizes of a TokenSpeed command: three factorizations of one stage, and the engine's checks."""

from __future__ import annotations

import re

from weft.dialects.base import Draft
from weft.dialects.families import experts_of
from weft.dialects.flags import Arguments
from weft.dialects.reading import (
    divisor_values,
    explain,
    layer_list,
    model_of,
    refuse_divisor,
)
from weft.dialects.sizes import Size, Sizes, divides, quotient, times, whole_number

_PROJECTION = re.compile(r"TOKENSPEED_\w+?_(O|QKV|SHARED_EXPERT)(?:_PROJ)?_TP_SIZE")
_MOE_SIGNS = ("moe_tp_size", "expert_parallel_size", "enable_expert_parallel", "enable_eplb")


class Derivation:
    """The three factorizations of one command's world."""

    def __init__(self, arguments: Arguments, draft: Draft) -> None:
        self.args, self.draft = arguments, draft
        self.cp_asked = _is_on(draft, "ENABLE_CP")
        self.tp_flag = "attn_tp_size" if "attn_tp_size" in arguments else "tensor_parallel_size"
        if "attn_tp_size" in arguments and "tensor_parallel_size" in arguments:
            first, second = arguments.given["tensor_parallel_size"], arguments.given["attn_tp_size"]
            message = f"{first.shown} is attention's tensor parallel size; it cannot be given with {second.shown}"
            draft.refuse(message, (), second.where)
        self.tp_given = self.tp_flag in arguments
        self.pp = arguments.number("pipeline_parallel_size")
        self.world = self._world()
        self.stage = quotient(self.world, self.pp)
        if not divides(self.pp, self.world):
            reason = f"the world has {self.world} ranks"
            refuse_divisor(draft, arguments, "pipeline_parallel_size", self.pp, self.world, reason)

    def sizes(self) -> Sizes:
        tp, dp = self._attention()
        self.nodes = self._nodes()
        self._check_nodes(dp)
        heads = 1 if self.cp_asked else tp
        sizes = Sizes(
            nodes=self.nodes,
            stages=self.pp,
            layers=self._layers(),
            tp=heads,
            cp=tp if self.cp_asked else 1,
            dp=dp,
            kv_split=self.args.number("decode_context_parallel_size"),
            o_proj=heads,
            dense=self._dense(tp),
            embedding=heads,
            lm_head=self._lm_head(heads, dp),
        )
        sizes.stated_world = self.world
        self._check_inside(heads)
        self._experts(sizes)
        self._projections(sizes)
        explain(self.draft, sizes, self._reasons(sizes))
        return sizes

    def _world(self) -> Size:
        """--world-size, else the product of attention's factors."""
        args = self.args
        if "world_size" in args:
            return args.number("world_size")
        sized = self.tp_given or "data_parallel_size" in args
        per_node, nodes = args.number("nprocs_per_node", None), args.number("nnodes")
        if "nprocs_per_node" in args and not sized:
            message = "--world-size is not given; nprocs-per-node x nnodes was taken"
            self.draft.note("warning", "default", message, args.where("nprocs_per_node"))
            return times(per_node, nodes)
        world = times(args.number(self.tp_flag), args.number("data_parallel_size"), self.pp)
        self.draft.note("info", "default", f"--world-size is not given; tp x dp x stages makes it {_shown(world)}")
        return world

    def _attention(self) -> tuple[Size, Size]:
        """tp and dp: a missing one is the quotient; with both missing tp takes the world."""
        args, draft, stage = self.args, self.draft, self.stage
        dp = args.number("data_parallel_size", None)
        if self.tp_given:
            tp = args.number(self.tp_flag)
            self._check_factor(self.tp_flag, tp, "attention")
            if "data_parallel_size" not in args:
                return tp, quotient(stage, tp)
            self._check_product(tp, dp)
            return tp, dp
        if "data_parallel_size" in args:
            self._check_factor("data_parallel_size", dp, "attention")
            return quotient(stage, dp), dp
        draft.note("info", "default", f"--attn-tp-size is not given: attention takes the stage, {_shown(stage)}")
        return stage, 1

    def _lm_head(self, tp: Size, dp: Size) -> Size:
        """As attention; whole on every rank once attention has dp groups, unless --lm-head-tp-size says more."""
        if "lm_head_tp_size" in self.args:
            size = self.args.number("lm_head_tp_size")
            self._check_factor("lm_head_tp_size", size, "the lm_head")
            return size
        return tp if dp == 1 else 1 if dp is not None else None

    def _layers(self) -> tuple[int, ...] | None:
        if "pp_layer_partition" not in self.args:
            return None
        text = self.args.text("pp_layer_partition")
        if (layers := layer_list(text)) is not None:
            return layers
        message = f"--pp-layer-partition {text}: not a list of layers"
        self.draft.refuse(message, (), self.args.where("pp_layer_partition"))
        return None

    def _check_inside(self, tp: Size) -> None:
        """dcp splits the KV cache inside attention's tp; sizes that a layout has no word for are noted."""
        args, draft = self.args, self.draft
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

    def _check_product(self, tp: Size, dp: Size) -> None:
        product = times(tp, dp)
        if product is not None and self.stage is not None and product != self.stage:
            message = f"attention tp {tp} x dp {dp} = {product}, but a stage has {self.stage} ranks"
            self.draft.refuse(message, (), self.args.where("data_parallel_size"))

    def _check_factor(self, dest: str, size: Size, what: str) -> None:
        if not divides(size, self.stage):
            reason = f"{what}: the factors must make a stage of {self.stage} ranks"
            refuse_divisor(self.draft, self.args, dest, size, self.stage, reason)

    def _dense(self, tp: Size) -> Size:
        if "dense_tp_size" in self.args:
            size = self.args.number("dense_tp_size")
            self._check_factor("dense_tp_size", size, "the dense layers")
            return size
        return tp

    def _experts(self, sizes: Sizes) -> None:
        args, draft = self.args, self.draft
        signs = ", ".join("--" + name.replace("_", "-") for name in _MOE_SIGNS if name in args)
        moe, experts = experts_of(model_of(draft), signs, draft)
        if not moe:
            if signs:
                draft.note("warning", "ignored", f"{signs}: the model is dense, the engine ignores it")
            return
        ep = self._ep()
        sizes.moe, sizes.num_experts, sizes.expert_ep = True, experts, ep
        self._check_factor("expert_parallel_size", ep, "the experts")
        sizes.expert_tp = args.number("moe_tp_size") if "moe_tp_size" in args else quotient(self.stage, ep)
        self._check_experts(sizes, ep)
        sizes.shared = sizes.dense
        if args.text("all2all_backend", "none") != "none":
            sizes.dispatch = "all_to_all"
        elif "all2all_backend" in args:
            sizes.dispatch = "all_gather"
        redundant = args.number("ep_num_redundant_experts", 0, minimum=0)
        if experts is not None and redundant is not None:
            sizes.slots = experts + redundant
        if args.switch("enable_eplb"):
            sizes.policy = "hierarchical" if "hierarchical" in args.text("eplb_algorithm") else "global"
            sizes.interval = args.number("eplb_rebalance_num_iterations", 1000) or 1000

    def _ep(self) -> Size:
        """--enable-expert-parallel spans the stage where no size is given."""
        ep = self.args.number("expert_parallel_size")
        if not self.args.switch("enable_expert_parallel") or ep != 1:
            return ep
        if "world_size" not in self.args:
            message = (
                "--enable-expert-parallel takes the world that follows from tp x dp; older releases ignore it there"
            )
            self.draft.note("info", "derived", message, self.args.where("enable_expert_parallel"))
        return self.stage

    def _check_experts(self, sizes: Sizes, ep: Size) -> None:
        args, draft, tp = self.args, self.draft, sizes.expert_tp
        if tp is not None and ep is not None and tp > 1 and ep > 1:
            how = "given" if "moe_tp_size" in args else "stage / ep; --moe-tp-size 1 asks for ep alone"
            message = f"experts tp {tp} ({how}) with ep {ep}: tensor and expert parallel cannot be mixed"
            draft.refuse(message, (1,), args.where("expert_parallel_size") or args.where("moe_tp_size"))
        elif not divides(times(tp, ep), self.stage):
            refuse_divisor(draft, args, "moe_tp_size", tp, self.stage, f"the experts' factors must make {self.stage}")
        if sizes.num_experts is not None and ep is not None and sizes.num_experts % ep:
            legal = tuple(size for size in divisor_values(self.stage) if sizes.num_experts % size == 0)
            message = f"ep {ep}: the model has {sizes.num_experts} experts; legal: {', '.join(map(str, legal))}"
            draft.refuse(message, legal, args.where("expert_parallel_size"))

    def _nodes(self) -> Size:
        """--nnodes; without it the nodes that the processes of each fill: a job's environment gives the rank."""
        args, per_node = self.args, self.args.number("nprocs_per_node", None)
        if "nnodes" in args or per_node is None or self.world is None or self.world % per_node:
            return args.number("nnodes")
        nodes = self.world // per_node
        if nodes > 1:
            message = f"nodes {nodes}: {self.world} ranks, --nprocs-per-node {per_node}; their ranks come from the job"
            self.draft.note("info", "derived", message, args.where("nprocs_per_node"))
        return nodes

    def _projections(self, sizes: Sizes) -> None:
        """Sizes of single projections, which the environment gives to some models."""
        for name, word in self.draft.document.environment.items():
            match = _PROJECTION.fullmatch(name)
            size = whole_number(word.text)
            if match is None or not size:
                continue
            if not divides(size, self.stage):
                legal = divisor_values(self.stage)
                self.draft.refuse(f"{name} {size}: a stage has {self.stage} ranks", legal, word.where)
            elif match[1] == "O":
                sizes.o_proj = size
            elif match[1] == "SHARED_EXPERT" and sizes.moe:
                sizes.shared = size
            elif match[1] == "QKV" and size != sizes.tp:
                message = f"{name} {size}: q, k and v have attention's size in a layout"
                self.draft.note("warning", "approximation", message, word.where)

    def _check_nodes(self, dp: Size) -> None:
        args, draft = self.args, self.draft
        nodes, per_node = self.nodes, args.number("nprocs_per_node", None)
        rank = args.node_rank()
        if nodes is None or nodes > 1:
            draft.node = rank
        if not divides(nodes, self.world):
            refuse_divisor(draft, args, "nnodes", nodes, self.world, f"the world has {self.world} ranks")
        elif "nprocs_per_node" in args and times(per_node, nodes) not in (None, self.world) and self.world:
            message = f"nprocs-per-node {per_node} x nnodes {nodes} is not the world of {self.world}"
            legal = (self.world // nodes,) if nodes else ()
            draft.refuse(message, legal, args.where("nprocs_per_node"))
        if nodes is not None and rank >= nodes:
            draft.refuse(
                f"--node-rank {rank}: there are {nodes} nodes", tuple(range(nodes))[:16], args.where("node_rank")
            )
        if "dist_init_addr" not in args and (dp not in (1, None) or nodes not in (1, None)):
            why = f"attention dp {dp}" if nodes == 1 else f"--nnodes {nodes}"
            draft.note("warning", "incomplete", f"{why} needs --dist-init-addr; this engine would not start without it")
        if self.cp_asked:
            message = "ENABLE_CP turns attention's tp into cp; the engine then runs one request at a time"
            draft.note("warning", "environment", message)

    def _reasons(self, sizes: Sizes) -> dict[str, str]:
        reasons = {
            "o_proj.tp": "as attention" if sizes.o_proj == sizes.tp else "by the environment",
            "embedding.tp": "as attention",
            "lm_head.tp": "as attention" if sizes.dp == 1 else "whole on every rank, since attention has dp groups",
        }
        if not self.tp_given:
            reasons["attention.tp"] = "stage / dp"
        if "data_parallel_size" not in self.args:
            reasons["attention.dp"] = "stage / attention's tp"
        if "dense_tp_size" not in self.args:
            reasons["dense.tp"] = "as attention"
        if sizes.moe:
            reasons["shared_experts.tp"] = "as dense"
            if "moe_tp_size" not in self.args:
                reasons["experts.tp"] = "stage / ep"
        return reasons


def _is_on(draft: Draft, variable: str) -> bool:
    word = draft.document.environment.get(variable)
    return word is not None and word.text.lower() not in ("", "0", "false", "no")


def _shown(size: Size) -> str:
    return "open" if size is None else str(size)
