"""TensorRT-LLM's YAML for a layout: the size keys that say most of it, and the options that it has keys for."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from weft.parallel.layout import Layout
from weft.tools.dialects.base import Diagnostic
from weft.tools.dialects.trtllm.flags import KEYS, RENAMED
from weft.tools.dialects.writing import MODEL, experts_for, no_key, section_of

_KEY_OF = {option: key for key, option in RENAMED.items()}
_COMMAND = ("host", "port", "served_model_name", "reasoning_parser", "tool_parser", "server_role")
_SKIPPED = ("model", "model_path", "num_experts", "expert_placement")


class _Dumper(yaml.SafeDumper):
    """Mappings one key a line, lists in a row."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def yaml_of(layout: Layout, options: Mapping[str, object]) -> tuple[str, list[Diagnostic]]:
    """The file, and notes about options without a key."""
    document = _sizes(layout)
    _experts(layout, options, document)
    flags, notes = _options(options, document)
    command = " ".join(["#: trtllm-serve", str(options.get("model", MODEL)), "--config parallel_config.yaml", *flags])
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)
    return f"{' '.join(command.split())}\n{text}", notes


def _sizes(layout: Layout) -> dict[str, object]:
    attention, stages = layout.attention, layout.pipeline.stages
    attention_dp = attention.dp > 1
    tp = attention.tp * attention.dp
    document: dict[str, object] = {"tensor_parallel_size": tp, "enable_attention_dp": attention_dp}
    if stages > 1:
        document["pipeline_parallel_size"] = stages
    if layout.pipeline.layers is not None:
        document["pp_partition"] = list(layout.pipeline.layers)
    if attention.cp > 1:
        document["context_parallel_size"] = attention.cp
        wide = {layout.o_proj.tp, layout.dense.tp} == {tp * attention.cp} or _experts_span(layout) > tp
        document["cp_config"] = {"cp_type": "HELIX" if wide else "ULYSSES"}
    per_node = layout.world // layout.nodes
    head = layout.lm_head
    if attention_dp and head.within == "node" and head.tp > 1:
        document["enable_lm_head_tp_in_adp"] = True
        document["gpus_per_node"] = per_node if layout.nodes > 1 else max(per_node, head.tp)
    elif layout.nodes > 1:
        document["gpus_per_node"] = per_node
    return document


def _experts_span(layout: Layout) -> int:
    return layout.experts.tp * layout.experts.ep if layout.experts else 0


def _experts(layout: Layout, options: Mapping[str, object], document: dict[str, object]) -> None:
    experts = layout.experts
    if experts is None:
        return
    document["moe_tensor_parallel_size"] = experts.tp
    document["moe_expert_parallel_size"] = experts.ep
    online = experts.balance.policy != "none"
    known = experts_for(layout, options)
    least = -(-known // experts.ep) * experts.ep
    if online or experts.slots != least:
        asked = options.get("moe_config.load_balancer.layer_updates_per_iter")
        updates = asked if isinstance(asked, int) and asked > 0 else 1
        balancer: dict[str, object] = {"num_slots": experts.slots, "layer_updates_per_iter": updates if online else 0}
        start = options.get("moe_config.load_balancer.initial_global_assignments")
        if start is not None:
            balancer["initial_global_assignments"] = start
        document["moe_config"] = {"load_balancer": balancer}


def _options(options: Mapping[str, object], document: dict[str, object]) -> tuple[list[str], list[Diagnostic]]:
    """Puts options under their keys; gives the flags of those that only the command line takes, and notes."""
    flags: list[str] = []
    notes: list[Diagnostic] = []
    for option, value in options.items():
        if option in _SKIPPED or option.startswith("moe_config.load_balancer") or value is None:
            continue
        key = _KEY_OF.get(option, option)
        if option in _COMMAND:
            flags.append(f"--{option} {value}")
        elif key.partition(".")[0] in KEYS:
            section, leaf = section_of(document, key)
            section[leaf] = value
        elif value is not False:
            notes.append(no_key(option, value))
    return flags, notes
