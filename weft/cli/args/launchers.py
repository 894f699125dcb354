"""--launcher: the agents of a command's other hosts are started by Ray, and host 0 meets them."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from weft.base.env import DIST_SECRET, dist_secret
from weft.base.errors import ConfigError
from weft.base.machine.own_addresses import Endpoint
from weft.base.options import made
from weft.base.settings import EngineConfig
from weft.cli.args.flags import values_of
from weft.model.checkpoint import Checkpoint
from weft.parallel.layout.layout import Layout
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig
from weft.runtime.launchers.config import LauncherConfig
from weft.runtime.launchers.environment import PORT
from weft.runtime.launchers.ray_hosts import RayHosts
from weft.runtime.launchers.ray_process import RayProcess
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.opening import open_hosts

_OWN = ("--launcher", "--ray-address")
_NODE = ("--node-rank", "--node_rank")
"""Of host 0; another engine's words may have it, too."""


def launcher_of(args: argparse.Namespace) -> LauncherConfig:
    """LauncherConfig of the command line. ConfigError: an address without the launcher that it is for, or a number of
    this host beside a launcher that numbers the hosts."""
    config = made(LauncherConfig, values_of(args.launcher_given))
    if config.launcher is None and "ray_address" in args.launcher_given:
        message = "ray_address is for Ray: give --launcher ray, or leave it out"
        raise ConfigError(message, field="ray_address", value=config.ray_address)
    number = args.hosts_given.get("node_rank")
    if config.launcher is not None and number is not None and number.value:
        message = (
            f"launcher {config.launcher} starts the other hosts from host 0, but {number.flag} gives {number.value}"
        )
        raise ConfigError(f"{message}; leave one out", field="node_rank", value=number.value)
    return config


def met_by_ray(
    args: argparse.Namespace,
    config: HostsConfig,
    layout: Layout,
    engine: EngineConfig,
    checkpoint: Checkpoint,
    limit_s: float,
    say: Callable[[str], None],
) -> tuple[AgentPool, list[HostResources]]:
    """As `open_hosts`, of agents that Ray starts with the command's own words. Each start has a secret of its own."""
    _refuse(config, layout)
    cluster = RayProcess(launcher_of(args).ray_address)
    words, secret = _words(args.command_words), secrets.token_hex(32)
    if config.dist_init_addr is None:
        config = replace(config, dist_init_addr=str(Endpoint(cluster.own_node().address, PORT)))
        words = _before_theirs(words, ["--dist-init-addr", str(config.dist_init_addr)])
    ray = RayHosts(cluster, layout, engine, words, secret, limit_s, say)
    try:
        ray.place()
        with _file(secret) as path:
            config = replace(config, node_rank=0, dist_secret_file=path)
            pool, resources = open_hosts(config, layout, engine, checkpoint, args.comm, limit_s, say, ray)
    except BaseException:
        ray.close()
        raise
    ray.watch(pool)
    return pool, resources


def _refuse(config: HostsConfig, layout: Layout) -> None:
    """ConfigError: what Ray's placement leaves no room for."""
    if layout.nodes == 1:
        message = "launcher ray: the layout has one host; give --nnodes, or leave --launcher out"
        raise ConfigError(message, field="launcher", value="ray")
    for name, value in {"dist_secret_file": config.dist_secret_file, DIST_SECRET: dist_secret()}.items():
        if value:
            message = f"launcher ray makes a secret for each start: leave {name} out"
            raise ConfigError(message, field=name)


def _words(words: Sequence[str]) -> list[str]:
    """Without what is host 0's alone: the launcher, and its number."""
    found, rest = list[str](), iter(words)
    left_out: tuple[str, ...] = (*_OWN, *_NODE)
    for word in rest:
        left_out = _NODE if word == "--" else left_out
        if word in left_out:
            next(rest, None)
        elif word.partition("=")[0] not in left_out:
            found.append(word)
    return found


def _before_theirs(words: list[str], more: list[str]) -> list[str]:
    cut = words.index("--") if "--" in words else len(words)
    return [*words[:cut], *more, *words[cut:]]


@contextmanager
def _file(text: str) -> Iterator[str]:
    """A path to the text that only this process has, and that ends with it."""
    fd = os.memfd_create("secret")
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
