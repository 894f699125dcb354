"""TensorRT-LLM's files of disaggregated deployments: which parts describe an engine of which role, what they share.

Sections stand at the top, under worker_config, or deeper in a job's own file; or keys begin with a role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from weft.tools.dialects.base import Where
from weft.tools.dialects.sources.documents.tree import Node, TreeEntry
from weft.tools.dialects.trtllm.flags import KEYS, SERVERS, SIZE_KEYS

Role = Literal["prefill", "decode"]
_PREFIX = re.compile(r"(ctx|context|prefill|gen|generation|decode)_(\w+)")
_JOB = ("conditional_disagg_config", "max_retries", "perf_metrics_max_requests", "schedule_style", "node_id")
_ADDRESS = ("hostname", "port", "host", "disagg_cluster")


@dataclass
class Section:
    """What a file says about the engines of one role."""

    key: str
    role: Role
    node: Node
    shared: Node
    """What holds for the engines of both roles."""
    instances: Node | None = None
    """How many engines of this role there are, where the job says it."""
    outside: tuple[str, ...] = field(default=())
    """Top keys of a job's file that are no engine's."""
    where: Where | None = None

    @property
    def count(self) -> object:
        """The instances that the section or the job states."""
        return self.instances.scalar if self.instances is not None else self.node.plain_value("num_instances")


def sections(root: Node) -> list[Section]:
    """The engines of a disaggregated deployment, prefill first; empty when the file describes one engine."""
    for path in _mappings(root, ()):
        workers = path[-1]
        found = _named(workers, deep=len(path) > 1) or _prefixed(workers)
        if found:
            shared, outside = _shared(path, [key for key, _, _ in found])
            return sorted(
                (
                    Section(key, role, node, shared, _instances(path, role), outside, node.where)
                    for key, role, node in found
                ),
                key=lambda section: section.role,
                reverse=True,
            )
    return []


def _mappings(node: Node, above: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    """Every mapping with those around it, outer ones first."""
    for item in node.items or ():
        yield from _mappings(item, above)
    if node.entries is None:
        return
    yield (*above, node)
    for entry in node.entries.values():
        yield from _mappings(entry.node, (*above, node))


def _role(word: str) -> Role:
    return "prefill" if word.startswith(("ctx", "context", "prefill")) else "decode"


def _named(workers: Node, deep: bool) -> list[tuple[str, Role, Node]]:
    """Sections under a role's name. A plain word counts where its section has an engine's sizes."""
    found: list[tuple[str, Role, Node]] = []
    for key, entry in (workers.entries or {}).items():
        if key not in SERVERS:
            continue
        sized = bool(entry.node.keys() & SIZE_KEYS)
        if key.endswith("_servers") or sized or deep and entry.node.keys() & KEYS:
            found.append((key, _role(key), entry.node))
    return found


def _prefixed(workers: Node) -> list[tuple[str, Role, Node]]:
    """Sections of keys that begin with a role: ctx_tp_size, gen_tp_size. Both roles must have a size."""
    parts: dict[Role, Node] = {}
    sized: set[Role] = set()
    for key, entry in (workers.entries or {}).items():
        match = _PREFIX.fullmatch(key)
        if match is None or match[2] not in KEYS:
            continue
        role = _role(match[1])
        part = parts.setdefault(role, Node(entry.where, entries={}))
        part.add(TreeEntry(match[2], entry.where, entry.node))
        sized |= {role} if match[2] in SIZE_KEYS else set()
    return [(role, role, part) for role, part in parts.items()] if len(sized) == 2 else []


def _instances(path: tuple[Node, ...], role: Role) -> Node | None:
    name = f"num_{'ctx' if role == 'prefill' else 'gen'}_servers"
    for node in (*path, path[0].get("hardware")):
        found = node.get(name) if node is not None else None
        if found is not None:
            return found
    return None


def _shared(path: tuple[Node, ...], keys: list[str]) -> tuple[Node, tuple[str, ...]]:
    """The keys of both roles, and the top keys that belong to the job."""
    root, workers = path[0], path[-1]
    if workers is root and not any(_PREFIX.fullmatch(key) for key in workers.keys()):
        entries = dict(root.entries or {})
        for key in (*SERVERS, *_ADDRESS, *_JOB):
            entries.pop(key, None)
        return Node(root.where, entries=entries), ()
    entries = {}
    for node in (*path, root.get("environment"), root.get("hardware")):
        for name in ("model", "model_path", "gpus_per_node"):
            entry = (node.entries or {}).get(name) if node is not None else None
            if entry is not None:
                entries["model" if name == "model_path" else name] = entry
    held = {node.where for node in path[1:]}
    outside = (key for key, entry in (root.entries or {}).items() if entry.node.where not in held and key != "hardware")
    return Node(root.where, entries=entries), tuple(key for key in outside if key not in keys)
