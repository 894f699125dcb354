"""MindIE's config.json for a layout: the keys that say most of it, and the options that it has keys for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from weft.parallel.layout import Layout
from weft.tools.dialects.base import Diagnostic
from weft.tools.dialects.mindie.keys import BACKEND, DEPLOY, KEYS, RENAMED
from weft.tools.dialects.writing import MODEL, experts_for, no_key, section_of

_NUMBERS = re.compile(r"\[\s*((?:-?\d+,?\s*)+)\]")
_KEY_OF = {option: key for key, option in RENAMED.items()}
_SECTION_OF = {
    **dict.fromkeys(("ipAddress", "port"), "ServerConfig"),
    **dict.fromkeys(("maxBatchSize", "maxPrefillTokens", "cacheBlockSize"), "ScheduleConfig"),
}
_DERIVED = ("npuDeviceIds", "modelInstanceNumber", "multiNodesInferEnabled", "backendType", "modelInstanceType")
_SKIPPED = ("model", "served_model_name", "num_experts", *_DERIVED)
Section = dict[str, object]


def config_of(layout: Layout, options: Mapping[str, object]) -> tuple[str, list[Diagnostic]]:
    """The file, and notes about options without a key."""
    model = _model(layout, options)
    deploy: Section = {}
    backend = _backend(layout)
    document: Section = {"Version": "1.0.0"}
    notes = _options(options, {"": document, "BackendConfig": backend, "ModelDeployConfig": deploy, "models": model})
    deploy["ModelConfig"] = [model]
    backend["ModelDeployConfig"] = deploy
    document["BackendConfig"] = backend
    text = json.dumps(document, indent=2)
    return _NUMBERS.sub(lambda found: "[" + ", ".join(found[1].split()).replace(",,", ",") + "]", text) + "\n", notes


def _per_node(layout: Layout) -> tuple[int, int]:
    """Nodes of one instance, and ranks on each."""
    nodes = max(1, layout.nodes // layout.replicas)
    return nodes, layout.world // layout.replicas // nodes


def _backend(layout: Layout) -> Section:
    nodes, per_node = _per_node(layout)
    devices = [list(range(at * per_node, (at + 1) * per_node)) for at in range(layout.replicas)]
    return {"modelInstanceNumber": layout.replicas, "npuDeviceIds": devices, "multiNodesInferEnabled": nodes > 1}


def _model(layout: Layout, options: Mapping[str, object]) -> Section:
    attention, experts = layout.attention, layout.experts
    name = str(options.get("model", MODEL))
    model: Section = {
        "modelInstanceType": "Standard",
        "modelName": options.get("served_model_name") or name.rstrip("/").rpartition("/")[2],
        "modelWeightPath": name,
        "worldSize": _per_node(layout)[1],
        "backendType": "torch" if attention.cp > 2 else "atb",
        "tp": attention.tp,
        "dp": attention.dp,
    }
    further = {"cp": attention.cp, "sp": attention.kv_split, "pp": layout.pipeline.stages}
    model |= {key: size for key, size in further.items() if size > 1}
    if experts is not None:
        model |= {"moe_tp": experts.tp, "moe_ep": experts.ep}
    section = _parallel(layout) | _eplb(layout, options)
    return model | ({"models": {"deepseekv2": section}} if section else {})


def _parallel(layout: Layout) -> Section:
    tp = layout.attention.tp
    local: Section = {}
    for key, part in (("lm_head_local_tp", layout.lm_head), ("o_proj_local_tp", layout.o_proj)):
        own = part.tp != tp or part.within == "node"
        local[key] = part.tp if own and part.tp <= _per_node(layout)[1] else -1
    if layout.dense.tp != tp:
        local["dense_mlp_local_tp"] = layout.dense.tp
    return {"parallel_options": local} if any(size != -1 for size in local.values()) else {}


def _eplb(layout: Layout, options: Mapping[str, object]) -> Section:
    experts = layout.experts
    if experts is None:
        return {}
    section: Section = {}
    if experts.dispatch != "auto":
        section["ep_level"] = 1 if experts.dispatch == "all_gather" else 2
    redundant = experts.slots - experts_for(layout, options)
    if redundant > 0 or experts.balance.policy != "none":
        level = 1 if experts.balance.policy == "none" else 2
        section["eplb"] = {"level": level, "num_redundant_experts": max(0, redundant)}
    return section


def _options(options: Mapping[str, object], homes: Mapping[str, Section]) -> list[Diagnostic]:
    """Puts options where the file has them; notes about those it has no key for."""
    notes: list[Diagnostic] = []
    for option, value in options.items():
        if option in _SKIPPED or value is None:
            continue
        if option == "kv_cache_memory" and isinstance(value, int) and value >= 1 << 30:
            homes["models"]["npuMemSize"] = value >> 30
            continue
        key = _KEY_OF.get(option, option)
        first = key.partition(".")[0]
        if first in KEYS or first in _SECTION_OF:
            dotted = f"{_SECTION_OF[key]}.{key}" if key in _SECTION_OF else key
            section, leaf = section_of(_home(first, homes), dotted)
            section.setdefault(leaf, value)
        elif value is not False:
            notes.append(no_key(option, value))
    return notes


def _home(first: str, homes: Mapping[str, Section]) -> Section:
    if first in ("ServerConfig", "LogConfig", "Version", "EnableDynamicAdjustTimeoutConfig", "ipAddress", "port"):
        return homes[""]
    if first == "ScheduleConfig" or first in BACKEND or first in _SECTION_OF:
        return homes["BackendConfig"]
    return homes["ModelDeployConfig"] if first in DEPLOY else homes["models"]
