"""Placements as documents: this program's JSON, SGLang's JSON and TensorRT-LLM's YAML, both ways.

In all three, a layer is a list of the expert in each slot, and consecutive runs of slots / ranks belong to one rank.
Only the first says how many ranks and experts there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import yaml

from weft.base.errors import ConfigError
from weft.parallel.experts.balancing.balancer import BalancePlan
from weft.parallel.experts.placement.placement import ExpertPlacement, even_placement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import IntArray

SCHEMA = "weft.experts.balance/1"
FORMATS = ("weft", "trtllm", "sglang")
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def to_weft(plan: BalancePlan, shape: SlotShape, seconds: float) -> dict[str, object]:
    """The document of `weft experts balance --json`; per_layer is null where a layer has no load."""
    placement, balance = plan.placement, plan.balance
    return {
        "schema": SCHEMA,
        "policy": plan.policy,
        "experts": shape.experts,
        "slots": shape.slots,
        "ranks": shape.ranks,
        "nodes": shape.nodes,
        "groups": shape.groups,
        "balance": {"mean": balance.mean, "min": balance.min, "per_layer": list(balance.per_layer)},
        "before": None if plan.before is None else {"mean": plan.before.mean, "min": plan.before.min},
        "phy2log": placement.phy2log.tolist(),
        "logcnt": placement.counts().tolist(),
        "moved_share": plan.moved_share,
        "seconds": seconds,
    }


def from_weft(document: dict[str, object], ranks: int | None = None) -> ExpertPlacement:
    """The placement of `to_weft`; only phy2log, experts and ranks are read."""
    said, experts = _whole(document, "ranks", 1), _whole(document, "experts", 1)
    if ranks is not None and ranks != said:
        raise ConfigError(f"ranks {ranks}: the placement has {said}", field="ranks", value=ranks, legal=(said,))
    return ExpertPlacement(_table(document["phy2log"], "phy2log"), experts, said)


def to_sglang(placement: ExpertPlacement) -> dict[str, object]:
    """What SGLang takes as its initial expert location."""
    return {"physical_to_logical_map": placement.phy2log.tolist()}


def from_sglang(document: dict[str, object], ranks: int) -> ExpertPlacement:
    """The placement of a physical_to_logical_map; the experts are counted."""
    table = _table(document["physical_to_logical_map"], "physical_to_logical_map")
    return ExpertPlacement(table, int(table.max()) + 1, ranks)


def to_trtllm(placement: ExpertPlacement, layers: Iterable[int], layer_updates_per_iter: int = 0) -> str:
    """TensorRT-LLM's load balancer file for the given layers (those with experts); layer_updates_per_iter 0 is a
    placement that stays, more are layers re-placed in each iteration."""
    rows = (f"  {layer}: {placement.phy2log[layer].tolist()}" for layer in layers)
    head = (f"num_slots: {placement.slots}", f"layer_updates_per_iter: {layer_updates_per_iter}")
    return "\n".join((*head, "initial_global_assignments:", *rows)) + "\n"


def from_trtllm(document: dict[str, object], ranks: int) -> tuple[ExpertPlacement, frozenset[int]]:
    """(placement, layers that the file leaves out). Left out are layers without experts; they get an even placement."""
    slots = _whole(document, "num_slots", 1)
    _whole(document, "layer_updates_per_iter", 0)
    assignments = document["initial_global_assignments"]
    if not isinstance(assignments, dict) or not assignments:
        raise _error("initial_global_assignments", "a mapping of layer to the expert of each slot is needed")
    for layer in assignments:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < 100_000:
            raise _error("initial_global_assignments", f"layer {layer!r}; legal: whole numbers from 0")
    given = sorted(assignments)
    table = _table([assignments[layer] for layer in given], "initial_global_assignments")
    if table.shape[1] != slots:
        raise _error("num_slots", f"{slots}, but the layers have {table.shape[1]}")
    experts = int(table.max()) + 1
    whole = even_placement(given[-1] + 1, SlotShape(experts, slots, ranks)).phy2log.copy()
    whole[given] = table
    return ExpertPlacement(whole, experts, ranks), frozenset(range(given[-1])) - frozenset(given)


def parse_yaml(text: str, where: str) -> object:
    """One YAML document. Raises ConfigError where it is none, or where a mapping has a key twice."""
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_double_keys(node, where)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}", field="file", value=where) from None
    finally:
        loader.dispose()


def _refuse_double_keys(root: yaml.Node, where: str) -> None:
    """The keys of the document and of the mappings right in it: the kinds read here go no deeper."""
    values = [value for _, value in root.value] if isinstance(root, yaml.MappingNode) else []
    for node in (root, *values):
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{where}: line {line}: {key.value} stands there twice", field="file", value=where)
            seen.add(str(key.value))


def _table(rows: object, key: str) -> IntArray:
    """Rows of whole numbers as an array; every row as long as the first."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise _error(key, "a list of layers is needed, each a list of experts")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise _error(key, f"layers of {min(lengths)} to {max(lengths)} slots; all need the same number")
    if any(isinstance(value, bool) or not isinstance(value, int) for row in rows for value in row):
        raise _error(key, "experts are whole numbers")
    try:
        return cast(IntArray, np.array(rows, dtype=np.int64))
    except OverflowError:
        raise _error(key, "an expert number beyond 64 bits") from None


def _whole(document: dict[str, object], key: str, least: int) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        shown = "missing" if key not in document else repr(value)
        raise _error(key, f"{shown}; legal: a whole number from {least}")
    return value


def _error(key: str, reason: str) -> ConfigError:
    return ConfigError(f"{key}: {reason}", field=key)
