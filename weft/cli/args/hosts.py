"""Options of every command whose ranks may be on several hosts, and the agent that such a command is beyond host 0."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Mapping

from weft.base.errors import ConfigError
from weft.base.log import configure
from weft.base.machine.parent_death import end_with_parent
from weft.base.options import made
from weft.base.settings import EngineConfig
from weft.cli.args.flags import GivenValue, add_flags, values_of
from weft.cli.args.launchers import launcher_of, met_by_ray
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.runtime.agent.agent import Agent, AgentSetup
from weft.runtime.ipc.fingerprint import settings_of_host
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig, check_device, hosts_settings
from weft.runtime.launch_plan.timeouts import ProcessLimits, process_settings
from weft.runtime.launchers.config import launcher_settings
from weft.runtime.launchers.environment import Variable, placement
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.opening import open_hosts
from weft.runtime.supervisor.processes import Spawner


def add_hosts_arguments(parser: argparse.ArgumentParser, *, join_limit: bool = True) -> None:
    """--node-rank and where hosts meet; with `join_limit` also that option, where the command has no others of it."""
    group = parser.add_argument_group(
        "several hosts", "the same command on each host, with --nnodes and each its own --node-rank"
    )
    add_flags(group, hosts_settings(), "hosts_given")
    add_flags(group, launcher_settings(), "launcher_given")
    if join_limit:
        add_flags(group, [each for each in process_settings() if each.name == "join_limit"], "limits_given")


def take_placement(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> None:
    """Takes over what torchrun or srun, which started this process, say of this host. UsageError: they start several
    processes a node. ConfigError: the words say something else."""
    found = placement(environ)
    if found is None:
        return
    if found.launcher == "torchrun":
        end_with_parent(signal.SIGTERM)  # torchrun itself lets its processes run on when it is killed
    args.layout_given = {**args.layout_given, "nodes": _agreed("nodes", found.nnodes, args.layout_given)}
    if found.nnodes.value == 1:
        return
    address = GivenValue(found.address.value, found.address.name)
    number = _agreed("node_rank", found.node_rank, args.hosts_given)
    args.hosts_given = {"dist_init_addr": address, **args.hosts_given, "node_rank": number}


def _agreed(field: str, variable: Variable, given: Mapping[str, GivenValue]) -> GivenValue:
    ours = given.get(field, GivenValue(variable.value, variable.name))
    if ours.value != variable.value:
        message = f"{field} is {variable.value} in {variable.name}, but {ours.flag} gives {ours.value}; leave one out"
        raise ConfigError(message, field=field, value=ours.value)
    return ours


def hosts_from(args: argparse.Namespace) -> HostsConfig:
    """HostsConfig of the command line; raises ConfigError for impossible values."""
    implied: Mapping[str, object] = getattr(args, "hosts_implied", {})
    return made(HostsConfig, {**implied, **values_of(args.hosts_given)})


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
    config, limit_s = hosts_from(args), limits_of(args).join_limit
    if launcher_of(args).launcher is not None:
        return met_by_ray(args, config, layout, engine, checkpoint, limit_s, say)
    config.check(layout)
    if layout.nodes == 1:
        return None, []
    return open_hosts(config, layout, engine, checkpoint, args.comm, limit_s, say)


def is_agent(args: argparse.Namespace) -> bool:
    """Whether this command is the agent of a host beyond host 0. ConfigError: a launcher is to start those."""
    launcher_of(args)
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
