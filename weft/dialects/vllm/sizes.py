"""The sizes of a vLLM command, step by step as the engine derives and checks them. Knows no other engine."""

from __future__ import annotations

from weft.dialects.base import Draft
from weft.dialects.expert_options import carry_window
from weft.dialects.families import experts_of
from weft.dialects.flags import Arguments
from weft.dialects.reading import (
    explain,
    layers_of,
    model_of,
    refuse_divisor,
)
from weft.dialects.sizes import Size, Sizes, divides, times, whole_number
from weft.dialects.values import open_name
from weft.dialects.vllm.modules import Modules

_MOE_SIGNS = ("enable_expert_parallel", "enable_eplb", "all2all_backend", "num_redundant_experts")
_ALL_GATHER = ("allgather_reducescatter", "naive")


class Derivation:
    """The sizes of one command, step by step as the engine derives them."""

    def __init__(self, arguments: Arguments, draft: Draft) -> None:
        self.args, self.draft = arguments, draft
        self.tp = arguments.number("tensor_parallel_size")
        self.pp = arguments.number("pipeline_parallel_size")
        self.dp = arguments.number("data_parallel_size")
        self.pcp = arguments.number("prefill_context_parallel_size")
        self.dcp = arguments.number("decode_context_parallel_size")
        self.expert_parallel = arguments.switch("enable_expert_parallel")
        signs = [f"--{name.replace('_', '-')}" for name in _MOE_SIGNS if arguments.switch(name)]
        self.moe, self.experts = experts_of(model_of(draft), ", ".join(signs), draft)
        if signs and not self.moe:
            draft.note("warning", "ignored", f"{', '.join(signs)}: the model is dense, the engine ignores it")
        self.modules = Modules(arguments, draft)

    def sizes(self) -> Sizes:
        self._check()
        if self.modules.open_dp and "data_parallel_size" not in self.args:
            self.draft.open("--data-parallel-size, which this part does not show,", ("data-parallel-size",))
            self.dp = whole_number(self.draft.context.settings.get("data-parallel-size", ""))
        coupled = self.moe or self.modules.sized
        sizes = Sizes(
            nodes=self._nodes(),
            replicas=1 if coupled else self.dp,
            stages=self.pp,
            layers=layers_of(self.draft, "VLLM_PP_LAYER_PARTITION"),
            tp=self.tp,
            dp=self.dp if coupled else 1,
            cp=self.pcp,
            kv_split=self.dcp,
            o_proj=self.tp,
            dense=self.tp,
            embedding=self.tp,
            lm_head=self.tp,
        )
        if self.moe:
            self._experts(sizes)
        self._tell_dp(coupled)
        derived = self._reasons(sizes)
        self.modules.apply(sizes, self.tp, self.dp, self.moe)
        explain(self.draft, sizes, {name: why for name, why in derived.items() if name not in self.modules.names})
        return sizes

    def _check(self) -> None:
        """What the engine asserts about pcp, dcp and expert load balancing."""
        args, draft = self.args, self.draft
        if self.pcp not in (1, None) and self.dp not in (1, None):
            message = f"--prefill-context-parallel-size {self.pcp} excludes --data-parallel-size {self.dp}"
            draft.refuse(message, (1,), args.where("prefill_context_parallel_size"))
        if not divides(self.dcp, self.tp):
            reason = f"dcp splits the KV cache inside tp {self.tp}"
            refuse_divisor(draft, args, "decode_context_parallel_size", self.dcp, self.tp, reason)
        if args.switch("enable_eplb") and not self.expert_parallel:
            draft.refuse("--enable-eplb needs --enable-expert-parallel", (), args.where("enable_eplb"))
        balancing = [args.switch(f"data_parallel_{kind}_lb") for kind in ("hybrid", "external")]
        if all(balancing):
            draft.refuse("--data-parallel-hybrid-lb and --data-parallel-external-lb exclude each other")
        if args.switch("headless") and balancing[0]:
            draft.refuse("--data-parallel-hybrid-lb cannot be headless", (), args.where("headless"))

    def _nodes(self) -> Size:
        """--nnodes, else as many as the local dp ranks need."""
        args, draft = self.args, self.draft
        world = times(self.tp, self.pp, self.dp, self.pcp)
        rank = args.node_rank()
        if "nnodes" in args:
            nodes = args.number("nnodes")
            if not divides(nodes, world):
                refuse_divisor(draft, args, "nnodes", nodes, world, f"the world has {world} ranks")
            if nodes is None or nodes > 1:
                draft.node = rank
            if nodes is not None and rank >= nodes:
                legal = tuple(range(nodes))[:16]
                draft.refuse(f"--node-rank {rank}: there are {nodes} nodes", legal, args.where("node_rank"))
            return nodes
        return self._nodes_of_dp()

    def _nodes_of_dp(self) -> Size:
        args, draft, dp = self.args, self.draft, self.dp
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

    def _tell_dp(self, coupled: bool) -> None:
        if self.dp == 1:
            return
        if not self.moe and coupled:
            message = "module sizes couple the dp ranks; the engine resets dp to 1 for dense models and refuses them"
            self.draft.note("warning", "approximation", message)
        elif coupled:
            self.draft.note("info", "lockstep", "the dp ranks of a mixture of experts run in lockstep: attention dp")
        else:
            self.draft.note("info", "replicas", "the dp ranks of a dense model are independent engines: replicas")
        if coupled and self.pp not in (1, None):
            message = "ranks are ordered dp before pipeline stage here, stage before dp in a layout"
            self.draft.note("info", "approximation", message)

    def _experts(self, sizes: Sizes) -> None:
        args = self.args
        span = times(self.tp, self.dp, self.pcp)
        sizes.moe, sizes.num_experts = True, self.experts
        sizes.expert_tp, sizes.expert_ep = (1, span) if self.expert_parallel else (span, 1)
        sizes.shared = self.tp
        self._dispatch(sizes)
        redundant = self._balancing("num_redundant_experts", args.number("num_redundant_experts", 0, minimum=0), 0)
        ascend = self.modules.balance
        redundant = ascend.counts.get("redundant", redundant)
        if self.experts is not None and redundant is not None:
            sizes.slots = self.experts + redundant
        if args.switch("enable_eplb"):
            sizes.policy = "global"
            sizes.interval = self._balancing("step_interval", args.number("eplb_step_interval", 3000)) or 3000
            window = self._balancing("window_size", args.number("eplb_window_size", 1000))
            carry_window(self.draft, args, window, sizes.interval)
        elif ascend.dynamic:
            sizes.policy, sizes.interval = "global", ascend.counts.get("interval") or sizes.interval

    def _balancing(self, key: str, default: Size, minimum: int = 1) -> Size:
        """A whole number of --eplb-config, which the engine also takes between quotes; a variable leaves it open."""
        value, where = self.args.mapping("eplb_config").get(key), self.args.where("eplb_config")
        name = open_name(value) if isinstance(value, str) else None
        if isinstance(value, str):
            number = whole_number(self.draft.context.settings.get(name, "") if name else value)
        else:
            number = value if type(value) is int else None
        if number is not None and number >= minimum:
            return number
        if name and number is None:
            self.draft.open(f"--eplb-config {key}", (name,), where)
            return None
        if value is not None:
            self.draft.refuse(f"--eplb-config {key} {value}: a whole number of at least {minimum}", (), where)
        return default

    def _dispatch(self, sizes: Sizes) -> None:
        word = self.draft.document.environment.get("VLLM_ALL2ALL_BACKEND")
        backend = self.args.text("all2all_backend", word.text if word else "")
        if word and "all2all_backend" not in self.args:
            message = "VLLM_ALL2ALL_BACKEND is deprecated; use --all2all-backend"
            self.draft.note("warning", "deprecated", message, word.where)
        if backend in ("naive", "pplx"):
            message = f"--all2all-backend {backend} was removed; the engine falls back to allgather_reducescatter"
            self.draft.note("warning", "removed", message, self.args.where("all2all_backend"))
            backend = "allgather_reducescatter"
        if backend and self.expert_parallel:
            sizes.dispatch = "all_gather" if backend in _ALL_GATHER else "all_to_all"

    def _reasons(self, sizes: Sizes) -> dict[str, str]:
        reasons = {f"{module}.tp": "as attention" for module in ("o_proj", "dense", "embedding", "lm_head")}
        if sizes.moe:
            reasons["shared_experts.tp"] = "as attention"
            if self.expert_parallel:
                reasons["experts.ep"] = "tp x dp x pcp, by --enable-expert-parallel"
            else:
                reasons["experts.tp"] = "tp x dp x pcp, without --enable-expert-parallel"
        return reasons
