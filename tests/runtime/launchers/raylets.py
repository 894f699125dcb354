"""A Ray cluster of raylets, one on each host of a test; Ray is in a folder of its own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.cluster import Cluster
from tests.runtime.launchers.packages import packages
from tests.support.namespaces import ROOT, Command, Host
from tests.support.waiting import alive, children, command_line, until

PORT = 6379
MEMORY = 80_000_000
"""Bytes of the object store, the least that Ray takes."""


def ray_folder() -> Path:
    """Where Ray is, at the version of constraints.txt."""
    (pin,) = re.findall(r"^ray==\S+$", (ROOT / "constraints.txt").read_text(), re.M)
    return packages(pin)


@dataclass
class RayHosts:
    """`raylets`: what each host runs; on host 0 also the cluster's own head."""

    cluster: Cluster
    folder: Path
    raylets: list[Command] = field(default_factory=list)

    def environ(self, root: Path = ROOT) -> dict[str, str]:
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1", "RAY_AUTH_MODE": "disabled"}
        return {"PYTHONPATH": f"{root}:{self.folder}", **quiet}

    def start(self, *, roots: Sequence[Path] = ()) -> None:
        """A raylet on each host; `roots`: the code of weft on each, where it is not this."""
        for host in self.cluster.hosts:
            host.run("mount", "-t", "tmpfs", "tmpfs", "/run")
            self.add(host, root=roots[host.number] if roots else ROOT)
        for raylet in self.raylets:
            raylet.says("Ray runtime started", 120)

    def add(self, host: Host, *, root: Path = ROOT) -> None:
        """Its temporary folder is short, for the paths of sockets, and the same everywhere, as Ray wants it."""
        first = self.cluster.hosts[0].address
        where = ["--address", f"{first}:{PORT}"]
        if host.number == 0:
            where = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--temp-dir", "/run/ray"]
        words = ["start", *where, "--node-ip-address", host.address, "--num-cpus", "1", "--block"]
        words += ["--object-store-memory", str(MEMORY), "--disable-usage-stats"]
        self.raylets.append(host.start("ray.scripts.scripts", words, self.environ(root)))

    def weft(self, command: str, *words: str) -> Command:
        """`weft COMMAND --launcher ray` on host 0."""
        host, model = self.cluster.hosts[0], str(self.cluster.models[0])
        given = [model, "--launcher", "ray", "--kv-cache-memory", "4MiB", *words]
        return host.start("weft.cli.main", [command, *given], self.environ())

    def serve(self, *words: str) -> Command:
        """The server, as soon as it is ready."""
        where = ["--uds", str(self.cluster.hosts[0].folder / "sock"), "--served-model-name", "small"]
        command = self.weft("serve", *where, *words)
        command.says("^ready on", 240)
        return command


def actors(raylet: Command) -> list[int]:
    """Pids of weft's actors on the raylet's host."""
    return [pid for pid in _below(raylet.pid) if b"ray::HostActor" in command_line(pid)]


def agents(raylet: Command) -> list[int]:
    """Pids of weft's agents on the raylet's host."""
    return [pid for pid in _below(raylet.pid) if b"weft.cli.hosted" in command_line(pid) and alive(pid)]


def of_weft(host: Host) -> list[str]:
    """Command lines of what runs on a host and is weft's: agents, ranks, actors."""
    return [line for line in host.processes() if "weft." in line or "ray::HostActor" in line]


def ranks(agent: int) -> list[int]:
    return [pid for pid in children(agent) if b"weft.runtime.worker.main" in command_line(pid) and alive(pid)]


def _below(pid: int) -> list[int]:
    """Every process that a process, or one that it has started, has started."""
    found = children(pid)
    return [*found, *(each for child in found for each in _below(child))]


def the_agent(raylet: Command) -> int:
    """The one agent of a host, with its rank."""
    until(lambda: len(agents(raylet)) == 1 and ranks(agents(raylet)[0]), "no agent with a rank")
    return agents(raylet)[0]


def kill_raylet(raylet: Command) -> None:
    """The raylet alone: what it has started sees that it is gone."""
    (pid,) = [each for each in _below(raylet.pid) if b"/raylet/raylet" in command_line(each).split(b"\0")[0]]
    os.kill(pid, signal.SIGKILL)
