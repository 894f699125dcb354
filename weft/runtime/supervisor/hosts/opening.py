"""Host 0 opens: listens for the other hosts' agents and waits for all of them."""

from __future__ import annotations

import platform
from collections.abc import Callable

from weft.base.settings import EngineConfig
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.runtime.ipc.fingerprint import settings_of_host
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig, check_device, hosts_of, resources_here
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.host_launcher import HostLauncher


def open_hosts(
    config: HostsConfig,
    layout: Layout,
    engine: EngineConfig,
    checkpoint: Checkpoint,
    comm: str,
    limit_s: float,
    say: Callable[[str], None],
    launcher: HostLauncher | None = None,
) -> tuple[AgentPool, list[HostResources]]:
    """All hosts are here; what each of them gives its ranks. HostLostError: names those that do not come within
    `limit_s`. ConfigError: the address is not this host's."""
    check_device(engine, 0)
    hosts = AgentPool(config, layout.nodes, settings_of_host(checkpoint, layout, engine, comm), say, launcher)
    try:
        own = resources_here(layout, engine, platform.node(), hosts.address, hosts.interface)
        say(f"host 0: {own}; waiting for {hosts_of(layout)} at {config.endpoint}")
        hosts.wait(range(1, layout.nodes), limit_s, launcher.give_up if launcher is not None else lambda: None)
        return hosts, [own, *(hosts.resources(node) for node in range(1, layout.nodes))]
    except BaseException:
        hosts.close()
        raise
