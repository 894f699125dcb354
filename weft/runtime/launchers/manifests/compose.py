"""A document for Docker compose: one service for each host."""

from __future__ import annotations

from weft.runtime.launch_plan.memory import MIB
from weft.runtime.launchers.manifests.deployment import (
    AGENT_SOCKET,
    API_KEY,
    CACHE,
    DIST_SECRET,
    LAYOUT,
    SECRETS,
    USER,
    ContainerDeployment,
    escaped,
    probe,
    secret_names,
)

Document = dict[str, object]
VARIABLES = {DIST_SECRET: "WEFT_DIST_SECRET", API_KEY: "WEFT_API_KEY"}
"""Secrets, by name -> variables of the shell that starts compose."""
_OWN: Document = {"uid": str(USER), "gid": str(USER), "mode": 0o400}


def compose(deployment: ContainerDeployment) -> list[Document]:
    """Services host0, host1, ... on one network, where their names are their addresses."""
    names = secret_names(deployment, leader=True)
    return [
        {
            "name": deployment.name,
            "services": {f"host{number}": _service(deployment, number) for number in range(deployment.hosts)},
            "configs": {"layout": {"content": deployment.layout.replace("$", "$$")}},
            "secrets": {name: {"environment": VARIABLES[name]} for name in names},
            "volumes": {f"cache{number}": {} for number in range(deployment.hosts)},
        }
    ]


def _service(deployment: ContainerDeployment, number: int) -> Document:
    leader = number == 0
    names = secret_names(deployment, leader=leader)
    asked = f"http://127.0.0.1:{deployment.port}/ready" if leader else AGENT_SOCKET
    volumes: list[Document] = [{"type": "volume", "source": f"cache{number}", "target": CACHE}]
    if (folder := deployment.model.folder) is not None:
        volumes.append({"type": "bind", "source": folder, "target": folder, "read_only": True})
    limits = {"memory": f"{deployment.memory[number] // MIB}m"}
    found: Document = {
        "image": deployment.image,
        "command": escaped(deployment.words_of(str(number), str(deployment.hosts), "host0", leader=leader), "$"),
        "configs": [{"source": "layout", "target": str(LAYOUT)}],
        "user": f"{USER}:{USER}",
        "secrets": [{"source": name, "target": str(SECRETS / name), **_OWN} for name in names],
        "volumes": volumes,
        "healthcheck": {
            "test": ["CMD", *probe(asked)],
            "interval": "10s",
            "timeout": "10s",
            "retries": 6,
            "start_period": "1h",
        },
        "deploy": {"resources": {"limits": limits}},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": f"{int(deployment.drain_s) + 15}s",
        "restart": "unless-stopped",
    }
    return {**found, "ports": [f"{deployment.port}:{deployment.port}"]} if leader else found
