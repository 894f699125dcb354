"""Room for requests on this machine: what the launch plan gives each rank. Imports no torch."""

from __future__ import annotations

from weft.base.machine.control_groups import memory_left
from weft.base.machine.cores import available_cores
from weft.base.settings import EngineConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.layout import Layout
from weft.runtime.launch_plan.memory import available_bytes, rank_memories
from weft.runtime.launch_plan.step_limits import with_step_tokens
from weft.tools.plan.clusters import Cluster, of_machine
from weft.tools.plan.parts import Explained
from weft.tools.plan.plan import Room, RoomFound


def this_machine() -> Cluster:
    """Its cores, and an even part of its free memory for each."""
    cores, memory = len(available_cores()), available_bytes(group=memory_left())
    return of_machine(cores, memory // cores)


def room_here(explained: Explained, engine: EngineConfig) -> Room:
    """What a start would leave for the cache: process, workspace and mailboxes are taken off."""
    goal, cluster = explained.goal, explained.cluster
    free = cluster.memory * cluster.devices

    def room(layout: Layout, replicas: int) -> RoomFound:
        shards = Shards(explained.config, layout, storage=goal.load.storage)
        memories = rank_memories(shards, with_step_tokens(engine, layout), goal.load.itemsize, free // replicas)
        blocks = min(memory.blocks(engine.kv_cache_memory) for memory in memories)
        missing = max(memory.fixed + 2 * memory.block - (memory.share or 0) for memory in memories)
        held = -(-goal.context // (goal.block * layout.kv_owners))
        return RoomFound(blocks // held * layout.attention.dp, max(0, missing))

    return room
