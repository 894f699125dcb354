"""Several hosts: the options that say which of them this is and where they meet, and what each host has. No torch."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from weft.base import env
from weft.base.errors import ConfigError, LayoutError
from weft.base.machine.control_groups import cpu_quota, memory_left
from weft.base.machine.cores import Core, CoreShare, assign_cores, available_cores, boot_id
from weft.base.machine.devices import too_few, torch_without_devices
from weft.base.machine.own_addresses import Endpoint, is_loopback, parse_endpoint
from weft.base.options import Setting, option, settings_of
from weft.base.plural import counted
from weft.base.settings import EngineConfig
from weft.compute.native import kernels
from weft.compute.native.isa import FLAGS
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import Layout
from weft.runtime.launch_plan.cpu_affinity import assign_cpus
from weft.runtime.launch_plan.memory import available_bytes, process_limit

LEAST_SECRET = 16
"""Bytes of the shortest secret: 128 bits where they are random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsConfig:
    """Where several hosts meet. All but `node_rank`, the secret's file, interface and ports is the same on each."""

    node_rank: int | None = option(
        None, "number of this host, from 0; the server is on host 0", "--node-rank", minimum=0
    )
    nprocs_per_node: int | None = option(
        None, "ranks on each host; checked against the layout", "--nprocs-per-node", minimum=1, expert=True
    )
    dist_init_addr: str | None = option(
        None,
        "address of host 0, where the others find it; the same words on every host",
        "--dist-init-addr",
        metavar="HOST:PORT",
    )
    dist_secret_file: str | None = option(
        None,
        "file with the secret that hosts prove to each other, which only its owner may read (also WEFT_DIST_SECRET)",
        "--dist-secret-file",
        metavar="FILE",
        expert=True,
    )
    dist_interface: str | None = option(
        None,
        "network interface of this host's sockets (default: the one that leads to host 0)",
        "--dist-interface",
        metavar="NAME",
        expert=True,
    )
    dist_ports: str | None = option(
        None, "ports that this host's ranks listen on (default: any)", "--dist-ports", metavar="LO-HI", expert=True
    )

    agent_socket: str | None = option(
        None,
        "Unix socket on which a host's agent says how it is (weft probe PATH); host 0 has none",
        "--agent-socket",
        metavar="PATH",
        expert=True,
    )

    def __post_init__(self) -> None:
        self.ports()
        if self.dist_init_addr is not None:
            parse_endpoint("dist_init_addr", self.dist_init_addr)

    def ports(self) -> tuple[int, int] | None:
        """Of `dist_ports`. ConfigError: no range of ports."""
        if self.dist_ports is None:
            return None
        low, _, high = self.dist_ports.partition("-")
        if low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 65536:
            return int(low), int(high)
        message = f"dist_ports {self.dist_ports}: legal: LO-HI, as 25001-25064"
        raise ConfigError(message, field="dist_ports", value=self.dist_ports)

    @property
    def endpoint(self) -> Endpoint:
        """Of `dist_init_addr`, which was given."""
        assert self.dist_init_addr is not None
        return parse_endpoint("dist_init_addr", self.dist_init_addr)

    def check(self, layout: Layout) -> None:
        """ConfigError: what was given does not fit the layout's hosts, or is missing."""
        hosts = layout.nodes
        if self.nprocs_per_node is not None and self.nprocs_per_node * hosts != layout.world:
            product = f"nprocs_per_node {self.nprocs_per_node} x nnodes {hosts} = {self.nprocs_per_node * hosts}"
            message = f"{product}, but the layout has a world of {layout.world}; legal: {layout.world // hosts}"
            raise ConfigError(message, field="nprocs_per_node", value=self.nprocs_per_node)
        if hosts == 1:
            self._refuse_without_hosts()
            return
        if self.node_rank is None:
            message = f"nnodes {hosts}: each host needs its number: give --node-rank 0 to {hosts - 1}"
            raise ConfigError(message, field="node_rank")
        if self.node_rank >= hosts:
            message = f"node_rank {self.node_rank}: there are {hosts} hosts; legal: 0 to {hosts - 1}"
            raise ConfigError(message, field="node_rank", value=self.node_rank, legal=tuple(range(hosts)))
        if self.dist_init_addr is None:
            message = f"nnodes {hosts}: hosts meet at host 0: give --dist-init-addr HOST:PORT"
            raise ConfigError(message, field="dist_init_addr")

    def _refuse_without_hosts(self) -> None:
        if self.node_rank:
            message = f"node_rank {self.node_rank}: the layout has one host; give --nnodes, or leave it out"
            raise ConfigError(message, field="node_rank", value=self.node_rank, legal=(0,))

    def secret(self, environ: Mapping[str, str] = os.environ) -> bytes:
        """A key made of the secret; of none where there is none, which only a loopback address allows. ConfigError: it
        is missing, or others may read it."""
        text = self._secret_text(environ)
        if not text and not is_loopback(self.endpoint.host):
            message = (
                f"dist_init_addr {self.dist_init_addr}: beyond the loopback address hosts need a secret: give"
                " --dist-secret-file FILE, or set WEFT_DIST_SECRET"
            )
            raise ConfigError(message, field="dist_secret_file")
        if text and len(text) < LEAST_SECRET:
            message = (
                f"the secret of the hosts has {len(text)} bytes; at least {LEAST_SECRET} are needed, since who sees the"
                " traffic may guess a shorter one. Make one: (umask 077; head -c 32 /dev/urandom | base64 > secret)"
            )
            raise ConfigError(message, field="dist_secret_file", value=len(text))
        return hashlib.sha256(b"weft hosts\0" + text).digest()

    def _secret_text(self, environ: Mapping[str, str]) -> bytes:
        if self.dist_secret_file is None:
            return env.dist_secret(environ).encode()
        field, path = "dist_secret_file", self.dist_secret_file
        if env.dist_secret(environ):
            raise ConfigError(f"{field} and WEFT_DIST_SECRET both give the secret; leave one out", field=field)
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(4096).strip()
        except OSError as error:
            raise ConfigError(f"{field} {path}: {error.strerror}", field=field, value=path) from error
        if mode & 0o007:
            message = f"{field} {path}: others may read it (mode {mode:o}); chmod 600 it"
            raise ConfigError(message, field=field, value=path)
        if not text:
            raise ConfigError(f"{field} {path}: it is empty", field=field, value=path)
        return text


def hosts_settings() -> tuple[Setting, ...]:
    """The fields as options, in order of declaration."""
    return settings_of(HostsConfig)


@dataclass(frozen=True, slots=True)
class HostResources:
    """What one host gives its ranks. `memory`: free bytes; `shares`: cores of each of its ranks, in rank order;
    `kernels`: the variant of the step library, None where there is none. `machine`: equal for hosts that are containers
    or network namespaces of one machine; `cores`: those that it may use, none where lists of CPUs were given."""

    name: str
    address: str
    interface: str
    memory: int
    shares: tuple[CoreShare, ...]
    kernels: str | None
    machine: str = ""
    cores: tuple[Core, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.address}{f' on {self.interface}' if self.interface else ''})"


def check_device(engine: EngineConfig, number: int) -> None:
    """ConfigError: the torch of this host, which has that number, sees no device that ranks are to compute on."""
    if engine.device == "cuda" and (version := torch_without_devices()) is not None:
        raise too_few(0, version, f"each rank of host {number}", engine.ranks_per_device)


def resources_here(layout: Layout, engine: EngineConfig, name: str, address: str, interface: str) -> HostResources:
    """Of this host, for its part of the layout's ranks. ConfigError: lists or threads that cannot be."""
    count, limit = layout.ranks_per_node, process_limit()
    memory = available_bytes(group=memory_left())
    cores = available_cores()
    assigned = assign_cpus(cores, count, cpu_quota(), engine, can_yield=False)
    memory = memory if limit is None else min(memory, max(0, limit) * count)
    listed = engine.cpus is not None or engine.server_cpus is not None
    machine, cores = boot_id(), () if listed else cores
    return HostResources(name, address, interface, memory, assigned.shares, kernels(), machine, cores)


def divide_machines(hosts: Sequence[HostResources], threads: int | None = None) -> list[HostResources]:
    """The hosts with cores of their own where several are on one machine and may use the same cores. `threads`: of each
    rank, as asked. ConfigError: more threads than cores."""
    divided = list(hosts)
    for machine in dict.fromkeys(host.machine for host in hosts if host.machine and host.cores):
        group = [at for at, host in enumerate(hosts) if host.machine == machine and host.cores]
        cores = list(dict.fromkeys(core for at in group for core in hosts[at].cores))
        if len(cores) == sum(len(hosts[at].cores) for at in group):
            continue
        given = [share for at in group for share in hosts[at].shares]
        shares = iter(assign_cores(cores, len(given), sum(share.threads for share in given), threads))
        for at in group:
            divided[at] = replace(hosts[at], shares=tuple(islice(shares, len(hosts[at].shares))))
    return divided


def hosts_of(layout: Layout) -> str:
    """'2 hosts with 4 ranks each', for people."""
    return f"{counted(layout.nodes, 'host')} with {counted(layout.ranks_per_node, 'rank')} each"


def check_hosts(layout: Layout, hosts: Sequence[HostResources]) -> None:
    """LayoutError: the layout's hosts are not there, or do not go with its replicas."""
    nodes, replicas = layout.nodes, layout.replicas
    if nodes > 1 and not hosts:
        message = f"nodes {nodes}: the ranks of one host alone cannot start them; give --node-rank and --dist-init-addr"
        raise LayoutError(message, field="nodes", value=nodes, legal=(1,))
    if nodes % replicas and replicas % nodes:
        legal = [each for each in divisors(layout.world) if each % replicas == 0 or replicas % each == 0]
        message = (
            f"nodes {nodes}: of {replicas} replicas one would have whole hosts and a part of another; legal: "
            f"{', '.join(map(str, legal))}"
        )
        raise LayoutError(message, field="nodes", value=nodes, legal=legal)


def hosts_of_a_replica(layout: Layout) -> int:
    """How many hosts each replica is on."""
    return max(1, layout.nodes // layout.replicas)


def spare_cpus(host: HostResources) -> tuple[int, ...]:
    """Where the front end runs, on host 0: on what no thread of its ranks keeps to."""
    return tuple(sorted(cpu for share in host.shares for cpu in share.spare))


def common_kernels(hosts: Sequence[HostResources]) -> str | None:
    """The variant that every host runs; None where one has none. Of one host alone: its own."""
    if not hosts:
        return kernels()
    order = tuple(FLAGS)
    found = [host.kernels for host in hosts]
    return None if None in found else max((name for name in found if name), key=order.index)
