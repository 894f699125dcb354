"""vLLM-Ascend's fine-grained tensor parallel sizes of embedding, lm_head, o_proj and MLP, both ways. Knows vLLM only.

The sizes cut dp ranks into groups; in a layout a group is a block of consecutive ranks, the same ranks at tp 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from weft.base.options import nearest
from weft.parallel.layout import Layout
from weft.tools.dialects.base import Draft, Where
from weft.tools.dialects.flags import Arguments
from weft.tools.dialects.reading import divisor_values
from weft.tools.dialects.sizes import Size, Sizes, divides, whole_number
from weft.tools.dialects.values import open_name, scalar
from weft.tools.dialects.vllm.flags import MODULE_CONFIG, MODULE_SIZES

_COUNTS = {
    "redundant": ("num_redundant_experts", "init_redundancy_expert"),
    "interval": ("expert_heat_collection_interval", "num_iterations_eplb_update"),
}
"""What weft reads -> its keys, the newer one first."""
_BALANCED = "eplb_config"
_FURTHER = ("olora_tensor_parallel_size",)


class AscendBalance:
    """vLLM-Ascend's own settings of expert balancing, nested or, as in older releases, flat."""

    def __init__(self, config: Mapping[str, object], draft: Draft, where: Where | None) -> None:
        """Of an additional config; values that the engine would not start with are refused."""
        self._draft, self._where = draft, where
        inner = config.get(_BALANCED, {})
        if not isinstance(inner, Mapping):
            message = f"{_BALANCED} {inner!r}: the engine ignores what is no mapping of names to values"
            draft.note("warning", "ignored", message, where)
            inner = {}
        both = {**config, **inner}
        self.dynamic = self._switch("dynamic_eplb", both.get("dynamic_eplb", False))
        self.counts: dict[str, Size] = {}
        """`redundant` and `interval`, those that are given; None: open."""
        for what, keys in _COUNTS.items():
            for key in filter(both.__contains__, keys[:1] if keys[0] in both else keys):
                self._count(what, key, both[key])

    def _switch(self, key: str, value: object) -> bool:
        known, value = self._known(key, value)
        if known and value not in (True, False, None, "true", "True"):
            self._draft.refuse(f"{key} {value!r}: true or false, without quotes", (True, False), self._where)
        return known and value in (True, "true", "True")

    def _count(self, what: str, key: str, value: object) -> None:
        known, value = self._known(key, value)
        if not known:
            self.counts[what] = None
        elif type(value) is int and value >= 0:
            self.counts[what] = value
        else:
            message = f"{key} {value!r}: a whole number of at least 0, without quotes"
            self._draft.refuse(message, (), self._where)

    def _known(self, key: str, value: object) -> tuple[bool, object]:
        """Whether the value is known, and it; a variable's is what is said beside the text."""
        name = open_name(value) if isinstance(value, str) else None
        if not name:
            return True, value
        text = self._draft.context.settings.get(name)
        if text is None:
            self._draft.open(key, (name,), self._where)
            return False, None
        return True, scalar(text)


class ModuleSizes:
    """The sizes that a command gives to single modules."""

    def __init__(self, arguments: Arguments, draft: Draft) -> None:
        self.args, self.draft = arguments, draft
        self.where = arguments.where("additional_config")
        config = arguments.mapping("additional_config")
        self.shared_whole = config.get("enable_shared_expert_dp") is True
        self.values: dict[str, Size] = {}
        self.balance = AscendBalance(config, draft, self.where)
        inner = config.get(MODULE_CONFIG, {})
        if not isinstance(inner, dict):
            draft.refuse(f"{MODULE_CONFIG} is a mapping of names to sizes, not {inner!r}", (), self.where)
            inner = {}
        outer = {key: config[key] for key in MODULE_SIZES if key in config}
        for key in outer:
            message = f"{key} stands outside {MODULE_CONFIG}; older releases took it there, newer ones ignore it"
            draft.note("warning", "deprecated", message, self.where)
        for key, value in {**outer, **inner}.items():
            self._take(key, value)

    def _take(self, key: str, value: object) -> None:
        draft = self.draft
        if key not in MODULE_SIZES:
            known = (*MODULE_SIZES, *_FURTHER)
            why = "has no module of its own in a layout" if key in _FURTHER else "unknown, ignored by the engine"
            hint = "" if key in _FURTHER else nearest(key, known)
            draft.note("warning", "unknown-key", f"{MODULE_CONFIG}.{key}: {why}{hint}", self.where)
            return
        module = MODULE_SIZES[key]
        name = open_name(value) if isinstance(value, str) else None
        if isinstance(value, str) and name:
            value = draft.context.settings.get(name, value)
        if isinstance(value, str) and (number := whole_number(value)) is not None:
            value = number
        if isinstance(value, str) and name:
            draft.open(key, (name,), self.where)
            self.values[module] = None
        elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
            draft.refuse(f"{key} {value!r}: not a whole number", (), self.where)
        elif value > 0:
            self.values[module] = value

    @property
    def sized(self) -> bool:
        """Whether any module has a size of its own."""
        return bool(self.values)

    @property
    def open_dp(self) -> bool:
        """Sizes shown without the command they belong to: dp is elsewhere."""
        return self.draft.document.fragment and any(value != 1 for value in self.values.values())

    @property
    def names(self) -> set[str]:
        """Dotted names of the sized modules."""
        return {f"{module}.tp" for module in self.values}

    def apply(self, sizes: Sizes, tp: Size, dp: Size, moe: bool) -> None:
        """Puts the sizes into the layout; refuses what the engine refuses."""
        if self.shared_whole:
            sizes.shared = 1
        if not self.values:
            return
        legal = divisor_values(dp)
        for module, value in self.values.items():
            if not divides(value, dp):
                message = f"{module} size {value}: it must divide --data-parallel-size {dp}"
                shown = f"; legal: {', '.join(map(str, legal))}" if legal else ""
                self.draft.refuse(message + shown, legal, self.where)
            setattr(sizes, module, value)
        self._engine_rules(tp, moe)

    def _engine_rules(self, tp: Size, moe: bool) -> None:
        draft = self.draft
        if "o_proj" in self.values and tp not in (1, None):
            message = f"oproj_tensor_parallel_size needs --tensor-parallel-size 1, not {tp}"
            draft.refuse(message, (1,), self.args.where("tensor_parallel_size"))
        if "o_proj" in self.values and self.args.switch("enforce_eager"):
            draft.refuse("oproj_tensor_parallel_size needs graph mode, not --enforce-eager", (), self.where)
        if tp not in (1, None):
            message = f"groups of dp ranks at one tp index are read as blocks of consecutive ranks, tp is {tp}"
            draft.note("warning", "approximation", message, self.where)
        if not moe:
            message = "the guide allows dense models, the engine refuses module sizes for them since mid 2026"
            draft.note("warning", "approximation", message, self.where)
        role = self.args.mapping("kv_transfer_config").get("kv_role")
        decode_only = [module for module in ("o_proj", "embedding") if module in self.values]
        if decode_only and role != "kv_consumer":
            names = " and ".join(decode_only)
            message = f"newer releases take a size of {names} only on a decode node with the recompute scheduler"
            draft.note("warning", "incomplete", message, self.where)


def module_parts(layout: Layout) -> list[tuple[str, object]]:
    """--additional-config for the modules whose size differs from attention's and that the engine takes."""
    sizes = layout.sizes
    attention = layout.attention
    found = {
        key: sizes[module]
        for key, module in MODULE_SIZES.items()
        if sizes[module] != attention.tp
        and divides(sizes[module], attention.dp)
        and (module != "o_proj" or attention.tp == 1)
    }
    config: dict[str, object] = {MODULE_CONFIG: found} if found else {}
    shared = layout.shared_experts
    if shared is not None and shared.tp == 1 and layout.attention.tp > 1:
        config["enable_shared_expert_dp"] = True
    return [("--additional-config", json.dumps(config))] if config else []
