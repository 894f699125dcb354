"""ContainerDeployment: what the containers of a layout's hosts have in common, whatever starts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import node_of
from weft.runtime.launch_plan.memory import DEFAULT_FRACTION, MIB, MemoryPlan
from weft.runtime.launchers.environment import PORT

FOLDER = PurePosixPath("/run/weft")
LAYOUT = FOLDER / "layout" / "layout.yaml"
SECRETS = FOLDER / "secrets"
DIST_SECRET, API_KEY = "dist-secret", "api-key"
"""Files of `SECRETS`."""
RUNTIME = FOLDER / "runtime"
AGENT_SOCKET = str(RUNTIME / "agent.sock")
CACHE = "/var/cache/weft"
USER = 1000
"""User and group of the image, as the Dockerfile makes them."""
SERVER_BYTES, AGENT_BYTES = 768 * MIB, 192 * MIB
"""Memory of a host's processes that are no ranks: front end with text worker, agent. Measured at 330 and 70 MiB with
the embedded model; tokenizers of large vocabularies take more."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a container finds the model. `folder`: a folder of this machine, at the same place in the containers;
    None: it is downloaded. `claim`: a PersistentVolumeClaim that has the folder's files, in place of the node's own."""

    folder: str | None
    claim: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerDeployment:
    """`words`: of weft serve, the same on every host. `memory`: of each host, which it may not pass; `cpus`: cores that
    each must have at least. `layout`: the document. `secrets`: by name, None: a Secret that exists has them."""

    name: str
    image: str
    hosts: int
    words: tuple[str, ...]
    port: int
    layout: str
    memory: tuple[int, ...]
    cpus: int
    model: ModelFiles
    secrets: dict[str, str] | None
    secret_name: str
    drain_s: float

    def words_of(self, rank: str, nnodes: str, head: str, *, leader: bool) -> list[str]:
        """Of `weft`, on the host with this number; where hosts meet is at `head`."""
        given = ["serve", *self.words, "--layout", str(LAYOUT)]
        if leader:
            given += ["--host", "0.0.0.0", "--port", str(self.port), "--api-key-file", str(SECRETS / API_KEY)]
        if self.hosts > 1:
            given += ["--nnodes", nnodes, "--node-rank", rank, "--dist-init-addr", f"{head}:{PORT}"]
            given += ["--dist-secret-file", str(SECRETS / DIST_SECRET)]
        return given if leader else [*given, "--agent-socket", AGENT_SOCKET]


def host_memory(plan: MemoryPlan, layout: Layout, fraction: float | None) -> tuple[int, ...]:
    """Bytes that each host needs: its ranks' share is `fraction` of what is free beside the server or the agent."""
    found = [0] * layout.nodes
    for rank, memory in enumerate(plan.ranks):
        found[node_of(layout, rank)] += memory.fixed + (plan.num_blocks + 1) * memory.block
    ranks = layout.ranks_per_node
    most = max(memory.fixed + (plan.num_blocks + 1) * memory.block for memory in plan.ranks)
    found = [max(each, most * ranks) for each in found]  # every rank of a host gets the same share
    return tuple(
        _whole(int(each / (fraction or DEFAULT_FRACTION)) + (AGENT_BYTES if node else SERVER_BYTES))
        for node, each in enumerate(found)
    )


def _whole(count: int) -> int:
    """Rounded up to MiB."""
    return -(-count // MIB) * MIB


def secret_names(deployment: ContainerDeployment, *, leader: bool) -> list[str]:
    """What a host's container is given."""
    return [*([API_KEY] if leader else []), *([DIST_SECRET] if deployment.hosts > 1 else [])]


def probe(where: str, *, alive: bool = False) -> list[str]:
    """The command in a container that asks its agent or server."""
    return ["weft", "probe", where, *(["--alive"] if alive else [])]


def escaped(words: Sequence[str], mark: str) -> list[str]:
    """With `mark`, which begins a variable, doubled: these words have none."""
    return [word.replace(mark, "$" + mark) for word in words]
