"""The sizes of an SGLang command, step by step as the engine derives and checks them. Knows no other engine."""

from __future__ import annotations

from weft.dialects.base import Draft
from weft.dialects.expert_options import carry_threshold
from weft.dialects.families import experts_of
from weft.dialects.flags import Arguments
from weft.dialects.reading import (
    divisor_values,
    explain,
    layers_of,
    model_of,
    refuse_divisor,
)
from weft.dialects.sizes import Sizes, divides, quotient, times

_MOE_SIGNS = ("ep_size", "enable_ep_moe", "enable_deepep_moe", "enable_eplb", "ep_num_redundant_experts", "moe_dp_size")


class Derivation:
    """The sizes of one command, step by step as the engine derives them."""

    def __init__(self, arguments: Arguments, draft: Draft) -> None:
        self.args, self.draft = arguments, draft
        self.tp = arguments.number("tp_size")
        self.pp = arguments.number("pp_size")
        self.dp = arguments.number("dp_size")
        self.cp = arguments.number("attn_cp_size")
        self.dcp = arguments.number("dcp_size")
        self.nodes = arguments.number("nnodes")
        self.backend = self._backend()
        self.dp_attention = self._dp_attention()

    def sizes(self) -> Sizes:
        self._check_stage()
        groups = self.dp if self.dp_attention else 1
        attention = quotient(self.tp, groups, self.cp)
        sizes = Sizes(
            nodes=self.nodes,
            replicas=1 if self.dp_attention else self.dp,
            stages=self.pp,
            layers=layers_of(self.draft, "SGLANG_PP_LAYER_PARTITION"),
            tp=attention,
            dp=groups,
            cp=self.cp,
            kv_split=self.dcp,
            o_proj=attention,
            dense=self._dense(),
            embedding=attention if self.dp_attention else self.tp,
            lm_head=self._lm_head(attention),
        )
        sizes.stated_world = times(self.tp, self.pp, sizes.replicas)
        self._experts(sizes)
        self._check_nodes(sizes)
        explain(self.draft, sizes, self._reasons(sizes))
        return sizes

    def _reasons(self, sizes: Sizes) -> dict[str, str]:
        """Why the sizes that no flag names are what they are."""
        whole = "the whole tp group"
        reasons = {
            "attention.tp": "tp / (dp x attn-cp) under --enable-dp-attention" if self.dp_attention else "tp / attn-cp",
            "o_proj.tp": "as attention",
            "embedding.tp": "as attention, under --enable-dp-attention" if self.dp_attention else whole,
            "lm_head.tp": "as attention, by --enable-dp-lm-head" if sizes.lm_head != self.tp else whole,
        }
        if "moe_dense_tp_size" not in self.args:
            reasons["dense.tp"] = whole
        if sizes.moe:
            reasons["experts.tp"] = "tp / (ep x moe-dp)"
            reasons["shared_experts.tp"] = whole if sizes.shared != 1 else "whole on every rank"
            if "ep_size" not in self.args and self.backend != "none":
                reasons["experts.ep"] = f"--moe-a2a-backend {self.backend} makes ep = tp"
        return reasons

    def _backend(self) -> str:
        if self.args.switch("enable_deepep_moe") and "moe_a2a_backend" not in self.args:
            return "deepep"
        return self.args.text("moe_a2a_backend", "none")

    def _dp_attention(self) -> bool:
        """--enable-dp-attention counts only with more than one group; without it dp makes replicas."""
        asked, draft = self.args.switch("enable_dp_attention"), self.draft
        if asked and draft.document.program and "router" in draft.document.program[-1].text:
            draft.note("warning", "approximation", "the router starts --dp-size engines of their own: read as replicas")
            return False
        if asked and self.dp == 1:
            message = "--enable-dp-attention with one dp group: the engine turns it off without a word"
            draft.note("warning", "ignored", message, self.args.where("enable_dp_attention"))
            return False
        if not asked and self.dp != 1:
            draft.note("info", "replicas", "--dp-size without --enable-dp-attention makes replicas of the whole model")
        return asked

    def _check_stage(self) -> None:
        """What the engine asserts about tp, dp, cp and dcp."""
        args, draft = self.args, self.draft
        groups = self.dp if self.dp_attention else 1
        if not divides(groups, self.tp):
            refuse_divisor(draft, args, "dp_size", self.dp, self.tp, f"--enable-dp-attention divides tp {self.tp}")
        elif not divides(times(groups, self.cp), self.tp):
            message = f"tp {self.tp} must be a multiple of dp {groups} x attn-cp {self.cp}"
            draft.refuse(message, divisor_values(quotient(self.tp, groups)), args.where("attn_cp_size"))
        attention = quotient(self.tp, groups, self.cp)
        if not divides(self.dcp, attention):
            refuse_divisor(draft, args, "dcp_size", self.dcp, attention, f"attention's tp is {attention}")
        if args.switch("enable_dp_lm_head") and not self.dp_attention:
            message = "--enable-dp-lm-head needs --enable-dp-attention with more than one dp group"
            if args.switch("enable_dp_attention"):
                draft.note("warning", "ignored", message, args.where("enable_dp_lm_head"))
            else:
                draft.refuse(message, (), args.where("enable_dp_lm_head"))

    def _dense(self) -> int | None:
        """--moe-dense-tp-size is 1 or tp; otherwise the whole tp group shares the dense MLP."""
        given = self.args.number("moe_dense_tp_size", self.tp)
        if given not in (1, self.tp, None):
            message = f"--moe-dense-tp-size {given}: only 1 or tp are supported"
            self.draft.refuse(message, sorted({1, self.tp or 1}), self.args.where("moe_dense_tp_size"))
        return given

    def _lm_head(self, attention: int | None) -> int | None:
        return attention if self.dp_attention and self.args.switch("enable_dp_lm_head") else self.tp

    def _experts(self, sizes: Sizes) -> None:
        args, draft = self.args, self.draft
        signs = [f"--{name.replace('_', '-')}" for name in _MOE_SIGNS if name in args]
        signs += [f"--moe-a2a-backend {self.backend}"] if self.backend != "none" else []
        moe, experts = experts_of(model_of(draft), ", ".join(signs), draft)
        if not moe:
            if signs:
                draft.note("warning", "ignored", f"{', '.join(signs)}: the model is dense, the engine ignores it")
            return
        ep, copies = self._ep(), args.number("moe_dp_size")
        if not divides(times(ep, copies), self.tp):
            refuse_divisor(draft, args, "ep_size", ep, quotient(self.tp, copies), f"tp is {self.tp}, moe-dp {copies}")
        if copies not in (1, None) and self.pp not in (1, None):
            draft.refuse(f"--moe-dp-size {copies} needs --pp-size 1", (1,), args.where("moe_dp_size"))
        if copies not in (1, None) and ep is not None and ep > 1 and times(ep, copies) != self.tp and self.tp:
            draft.refuse(f"ep {ep} x moe-dp {copies} must be tp {self.tp}", (), args.where("moe_dp_size"))
        sizes.moe, sizes.num_experts = True, experts
        sizes.expert_ep, sizes.expert_tp = ep, quotient(self.tp, ep, copies)
        shared_alone = self.backend != "none" or "SGLANG_SHARED_EXPERT_TP1" in draft.document.environment
        sizes.shared = 1 if shared_alone else self.tp
        self._dispatch(sizes)
        self._slots(sizes, ep)

    def _ep(self) -> int | None:
        ep = self.args.number("ep_size", None)
        if "ep_size" not in self.args:
            ep = self.tp if self.args.switch("enable_ep_moe") or self.backend != "none" else 1
        elif self.backend != "none" and ep != self.tp:
            message = f"--moe-a2a-backend {self.backend} makes ep = tp = {self.tp}; --ep-size {ep} is overwritten"
            self.draft.note("warning", "overwritten", message, self.args.where("ep_size"))
            ep = self.tp
        return ep

    def _dispatch(self, sizes: Sizes) -> None:
        if self.backend != "none":
            sizes.dispatch = "all_to_all"
        elif "moe_a2a_backend" in self.args:
            sizes.dispatch = "all_gather"
        if self.backend == "flashinfer" and (not self.dp_attention or self.dp != self.tp):
            message = "--moe-a2a-backend flashinfer needs --enable-dp-attention and dp = tp"
            self.draft.refuse(message, (), self.args.where("moe_a2a_backend"))

    def _slots(self, sizes: Sizes, ep: int | None) -> None:
        args = self.args
        redundant = args.number("ep_num_redundant_experts", 0, minimum=0)
        if sizes.num_experts is not None and redundant is not None:
            sizes.slots = sizes.num_experts + redundant
        if not args.switch("enable_eplb"):
            return
        if ep == 1:
            self.draft.refuse("--enable-eplb needs --ep-size above 1", (), args.where("enable_eplb"))
        hierarchical = "hierarchical" in args.text("eplb_algorithm")
        sizes.policy = "hierarchical" if hierarchical else "global"
        sizes.interval = args.number("eplb_rebalance_num_iterations", 1000) or 1000
        carry_threshold(self.draft, args)

    def _check_nodes(self, sizes: Sizes) -> None:
        args, draft = self.args, self.draft
        rank = args.node_rank()
        if self.nodes is None or self.nodes > 1:
            draft.node = rank
        if self.nodes is not None and self.nodes > 1:
            if sizes.replicas not in (1, None):
                message = f"--dp-size {self.dp} over {self.nodes} nodes needs --enable-dp-attention"
                draft.refuse(message, (1,), args.where("dp_size"))
            if "dist_init_addr" not in args:
                draft.note("warning", "incomplete", "--nnodes above 1 needs --dist-init-addr", args.where("nnodes"))
        stage = times(self.tp, self.pp)
        if not divides(self.nodes, stage):
            refuse_divisor(draft, args, "nnodes", self.nodes, stage, f"tp x pp is {stage}")
        if self.nodes is not None and rank >= self.nodes:
            legal = tuple(range(self.nodes))[:16]
            draft.refuse(f"--node-rank {rank}: there are {self.nodes} nodes", legal, args.where("node_rank"))
        if self.pp not in (1, None) and sizes.layers is None:
            message = "uneven stages: the engine gives the last stages the remaining layers, weft the first"
            draft.note("info", "approximation", message, args.where("pp_size"))
