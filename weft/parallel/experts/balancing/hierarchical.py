"""Hierarchical plan: whole groups of experts go to nodes first, then each node is planned alone.

A router that picks groups first then sends a token to few nodes. The cost is balance, because nodes cannot share load
with each other; the global plan has no such limit.
"""

from __future__ import annotations

import numpy as np

from weft.base.errors import ConfigError
from weft.parallel.experts.balancing.global_plan import plan
from weft.parallel.experts.balancing.packing import pack
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import BoolArray, FloatArray, IntArray


def plan_by_node(loads: FloatArray, shape: SlotShape) -> IntArray:
    """The expert of each slot, [layers, ranks, slots per rank]; loads [layers, experts], each layer with some load.

    Raises ConfigError where a rank has more slots than its node has experts.
    """
    check_node_sizes(shape)
    experts = _experts_of_nodes(loads, shape)
    layers, nodes, size = experts.shape
    local = np.take_along_axis(loads, experts.reshape(layers, -1), axis=1).reshape(layers * nodes, size)
    empty = local.max(axis=1) == 0
    local[empty] = 1.0
    table = plan(local, shape.slots // nodes, shape.ranks // nodes)
    owners = np.take_along_axis(experts.reshape(layers * nodes, size), table.reshape(layers * nodes, -1), axis=1)
    return np.sort(owners.reshape(layers, shape.ranks, shape.slots_per_rank), axis=2)


def check_node_sizes(shape: SlotShape) -> None:
    """Raises ConfigError where a rank would have to hold an expert twice."""
    size = shape.experts // shape.nodes
    if shape.slots_per_rank > size:
        raise ConfigError(
            f"slots {shape.slots}: {shape.slots_per_rank} slots a rank, but a node has {size} experts; "
            f"legal with {shape.nodes} nodes: up to {size * shape.ranks}",
            field="slots",
            value=shape.slots,
            legal=(size * shape.ranks,),
        )


def allowed_by_node(current: ExpertPlacement, shape: SlotShape) -> BoolArray:
    """Where each expert may stand so that groups stay inside the node they are in, [layers, experts, ranks].

    Raises ConfigError where a group of `current` is spread over nodes.
    """
    per_node, size = shape.ranks // shape.nodes, shape.experts // shape.groups
    nodes = np.repeat(np.arange(shape.nodes), per_node * shape.slots_per_rank)
    home = np.full((current.layers, shape.groups), -1)
    for layer, row in enumerate(current.phy2log):
        home[layer, row // size] = nodes
        astray = np.flatnonzero(home[layer, row // size] != nodes)
        if len(astray):
            group = int(row[astray[0]]) // size
            raise ConfigError(
                f"placement: group {group} of layer {layer} is spread over nodes; legal under the hierarchical policy: "
                f"each of {shape.groups} groups inside one of {shape.nodes} nodes (or --policy global)",
                field="from_placement",
            )
    of_expert = np.repeat(home, size, axis=1)
    allowed: BoolArray = of_expert[:, :, None] == np.arange(shape.ranks) // per_node
    return allowed


def _experts_of_nodes(loads: FloatArray, shape: SlotShape) -> IntArray:
    """The experts of each node, [layers, nodes, experts of a node]: groups packed like replicas, equally many a
    node."""
    size = shape.experts // shape.groups
    groups = loads.reshape(len(loads), shape.groups, size).sum(axis=2)
    order = np.argsort(-groups, axis=1, kind="stable")
    packing = pack(order, np.take_along_axis(groups, order, axis=1), shape.nodes)
    members = np.sort(packing.owners, axis=2)
    return (members[:, :, :, None] * size + np.arange(size)).reshape(len(loads), shape.nodes, -1)
