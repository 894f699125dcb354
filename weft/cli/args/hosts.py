"""Options of every command whose ranks may be on several hosts, and the agent that such a command is beyond host 0."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from weft.agent.agent import Agent, AgentSetup
from weft.checkpoint import Checkpoint
from weft.cli.args.flags import add_flags, values_of
from weft.ipc.fingerprint import settings_of_host
from weft.launch_plan.hosts import HostResources, HostsConfig, check_device, hosts_settings
from weft.launch_plan.timeouts import ProcessLimits, process_settings
from weft.layout.layout import Layout
from weft.log import configure
from weft.options import made
from weft.settings import EngineConfig
from weft.supervisor.hosts.agent_pool import AgentPool
from weft.supervisor.hosts.opening import open_hosts
from weft.supervisor.processes import Spawner


def add_hosts_arguments(parser: argparse.ArgumentParser, *, join_limit: bool = True) -> None:
    """--node-rank and where hosts meet; with `join_limit` also that option, where the command has no others of it."""
    group = parser.add_argument_group(
        "several hosts", "the same command on each host, with --nnodes and each its own --node-rank"
    )
    add_flags(group, hosts_settings(), "hosts_given")
    if join_limit:
        add_flags(group, [each for each in process_settings() if each.name == "join_limit"], "limits_given")


def hosts_from(args: argparse.Namespace) -> HostsConfig:
    """HostsConfig of the command line; raises ConfigError for impossible values."""
    return made(HostsConfig, values_of(args.hosts_given))


def limits_of(args: argparse.Namespace) -> ProcessLimits:
    """ProcessLimits of the command line; raises ConfigError for impossible values."""
    return made(ProcessLimits, values_of(args.limits_given))


def met_hosts(
    args: argparse.Namespace,
    layout: Layout,
    engine: EngineConfig,
    checkpoint: Checkpoint,
    say: Callable[[str], None],
) -> tuple[AgentPool | None, list[HostResources]]:
    """Host 0's side of the layout's other hosts, once all of them are here, and what each host has; None where there is
    one host. ConfigError, PeerError."""
    config = hosts_from(args)
    config.check(layout)
    if layout.nodes == 1:
        return None, []
    return open_hosts(config, layout, engine, checkpoint, args.comm, limits_of(args).join_limit, say)


def is_agent(args: argparse.Namespace) -> bool:
    """Whether this command is the agent of a host beyond host 0."""
    return bool(hosts_from(args).node_rank)


def run_agent(
    args: argparse.Namespace,
    layout: Layout,
    engine: EngineConfig,
    checkpoint: Checkpoint,
    say: Callable[[str], None],
) -> int:
    """0 when host 0 has ended on purpose. ConfigError: host 0 refuses this host. PeerError: it cannot be reached."""
    config = hosts_from(args)
    config.check(layout)
    configure(f"host {config.node_rank}")
    check_device(engine, config.node_rank or 0)
    spawner: Spawner = args.spawner
    settings = settings_of_host(checkpoint, layout, engine, args.comm)
    setup = AgentSetup(config, layout, engine, checkpoint, settings, limits_of(args).join_limit)
    Agent(setup, spawner, say).run()
    return 0
