"""The public greedy balancer (expert-parallel load balancer, "EPLB"), written from its description: the baseline.

Three steps: whole groups of experts go to nodes; experts are replicated inside their node, each time the one with the
largest load / replicas; replicas go to the node's ranks, largest first, to the lightest rank with a free slot. The
global form is the same with one node. It never revises a choice, and may put two replicas of one expert on one rank.
"""

from __future__ import annotations

import heapq
from typing import cast

import numpy as np

from weft.parallel.experts.balancing.replication import replicate
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import FloatArray, IntArray, normalized


def greedy(loads: FloatArray, shape: SlotShape) -> ExpertPlacement:
    """The public greedy's placement; hierarchical where shape has nodes and groups. loads [layers, experts]."""
    nodes = shape.nodes if shape.hierarchical else 1
    groups = shape.groups if shape.hierarchical else 1
    table = np.stack([_plan_layer(layer, shape, nodes, groups) for layer in normalized(loads)])
    return ExpertPlacement(table, shape.experts, shape.ranks)


def pack(weights: FloatArray, packs: int) -> list[list[int]]:
    """Items of each pack, equally many in each: largest item first, to the lightest pack with room, ties to the
    lowest."""
    room = len(weights) // packs
    lightest = [(0.0, index) for index in range(packs)]
    content: list[list[int]] = [[] for _ in range(packs)]
    for item in np.argsort(-weights, kind="stable").tolist():
        total, index = heapq.heappop(lightest)
        content[index].append(item)
        if len(content[index]) < room:
            heapq.heappush(lightest, (total + float(weights[item]), index))
    return content


def _plan_layer(loads: FloatArray, shape: SlotShape, nodes: int, groups: int) -> IntArray:
    size = shape.experts // groups
    by_node = pack(loads.reshape(groups, size).sum(axis=1), nodes)
    rows = []
    for members in by_node:
        experts = np.concatenate([np.arange(group * size, (group + 1) * size) for group in members])
        local = _plan_node(loads[experts], shape.slots // nodes, shape.ranks // nodes)
        rows.append(experts[local])
    return np.concatenate(rows)


def _plan_node(loads: FloatArray, slots: int, ranks: int) -> IntArray:
    """The expert of each slot of one node."""
    counts = replicate(loads[None], slots, cap=slots)[0]
    extra = np.repeat(np.arange(len(loads)), counts - 1)
    owners = np.concatenate([np.arange(len(loads)), extra])
    content = pack((loads / counts)[owners], ranks)
    return cast(IntArray, owners[np.array(content, dtype=np.int64).ravel()])
