"""RayCluster: what weft asks of Ray, which is imported here alone: nodes, placement groups, actors of hosts."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from weft.base.errors import ConfigError, PeerError
from weft.runtime.launchers.ray_actor import HostActor

ADDRESS = "ray_address"
ASK_S = 0.2
SHOW_S = 5.0
"""How often a wait for resources is said again."""
FACTS_S = 90.0
"""Most seconds until an actor has started: its host may have to read Ray from a disk for the first time."""
NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster."""

    number: str
    address: str
    name: str
    resources: Mapping[str, float]

    def __str__(self) -> str:
        parts = [f"{self.resources.get(name, 0):g} {name}" for name in ("CPU", "GPU") if name in self.resources]
        return f"{self.name} ({self.address}) with {', '.join(parts) or 'no CPU'}"


@dataclass(slots=True)
class PlacedHost:
    """An actor on a node. `running`: the call that runs its agent; None: it was not started."""

    node: RayNode
    actor: Any
    running: Any = None


@dataclass(slots=True)
class PlacedGroup:
    """A placement group: `hosts` are its actors by the number of the host; the driver's own host has none."""

    group: Any
    hosts: dict[int, PlacedHost]
    nodes: tuple[RayNode, ...]


class RayCluster:
    """The cluster that this process joined as a driver. ConfigError: Ray is not installed, no cluster runs at
    `address`, or it has other versions."""

    def __init__(self, address: str) -> None:
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a call after `close` starts a cluster of its own
        self._ray = _imported("ray")
        self._groups = _imported("ray.util.placement_group")
        self._scheduling = _imported("ray.util.scheduling_strategies")
        if "://" in address:
            message = f"{ADDRESS} {address}: the server must run on a host of the cluster; legal: auto, or HOST:PORT"
            raise ConfigError(message, field=ADDRESS, value=address)
        kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except Exception as error:  # of many kinds: not found, other versions, a node that is not this one's
            message = f"{ADDRESS} {address}: {_first_line(error)}; is there a Ray cluster (ray start) on this host?"
            raise ConfigError(message, field=ADDRESS, value=address) from error
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)  # Ray takes SIGTERM
        self.own = self._ray.get_runtime_context().get_node_id()

    def nodes(self) -> list[RayNode]:
        """Those that are alive, as far as Ray knows."""
        return [
            RayNode(each["NodeID"], each["NodeManagerAddress"], each["NodeManagerHostname"], each["Resources"])
            for each in self._ray.nodes()
            if each["Alive"]
        ]

    def own_node(self) -> RayNode:
        """The driver's."""
        return next(node for node in self.nodes() if node.number == self.own)

    def place(
        self,
        hosts: Sequence[int],
        bundle: Mapping[str, float],
        avoid: Collection[str],
        say: Callable[[str], None],
        limit_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> PlacedGroup:
        """A group with a bundle on a node of its own for each of `hosts`, host 0 on the driver's; on none of the nodes
        `avoid`. ConfigError, at once: the cluster cannot have it. PeerError: it is not free for `limit_s`."""
        others = "!in(" + ",".join(sorted({*avoid, self.own})) + ")"
        labels = [{NODE_LABEL: self.own if host == 0 else others} for host in hosts]
        self._check_count(hosts, avoid, bundle)
        group = self._groups.placement_group(
            [dict(bundle) for _ in hosts], strategy="STRICT_SPREAD", bundle_label_selector=labels
        )
        try:
            self._await(group, hosts, bundle, avoid, say, limit_s, cancelled)
            table = self._groups.placement_group_table(group)["bundles_to_node_id"]
            by_number = {node.number: node for node in self.nodes()}
            nodes = tuple(by_number[table[index]] for index in range(len(hosts)))
            placed = {
                host: PlacedHost(nodes[index], self._actor(group, index, bundle))
                for index, host in enumerate(hosts)
                if host > 0
            }
        except BaseException:
            self._groups.remove_placement_group(group)
            raise
        return PlacedGroup(group, placed, nodes)

    def _actor(self, group: Any, index: int, bundle: Mapping[str, float]) -> Any:
        at = self._scheduling.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        made = self._ray.remote(HostActor)
        gpus = {"num_gpus": bundle["GPU"]} if "GPU" in bundle else {}
        return made.options(num_cpus=bundle["CPU"], **gpus, max_concurrency=2, scheduling_strategy=at).remote()

    def _check_count(self, hosts: Sequence[int], avoid: Collection[str], bundle: Mapping[str, float]) -> None:
        """Ray itself needs seconds to see that labels leave too few nodes."""
        left = [node for node in self.nodes() if node.number not in avoid and node.number != self.own]
        if len(left) < sum(host > 0 for host in hosts):
            raise self._impossible(hosts, bundle, avoid)

    def _await(
        self,
        group: Any,
        hosts: Sequence[int],
        bundle: Mapping[str, float],
        avoid: Collection[str],
        say: Callable[[str], None],
        limit_s: float,
        cancelled: Callable[[], bool],
    ) -> None:
        since = time.monotonic()
        said = since - SHOW_S + 1.0
        while True:
            table = self._groups.placement_group_table(group)
            state = table["stats"]["scheduling_state"]
            if table["state"] == "CREATED":
                return
            if state == "INFEASIBLE":
                raise self._impossible(hosts, bundle, avoid)
            now = time.monotonic()
            if now - since > limit_s or cancelled():
                message = f"Ray has no room for {_named(hosts)}: {self._wanted(hosts, bundle, avoid)}"
                raise PeerError(f"{message}; waited {now - since:.0f} s (--join-limit)")
            if now - said > SHOW_S:
                said = now
                say(f"waiting for Ray ({state}): {self._wanted(hosts, bundle, avoid)}")
            time.sleep(ASK_S)

    def _impossible(self, hosts: Sequence[int], bundle: Mapping[str, float], avoid: Collection[str]) -> ConfigError:
        message = f"Ray can never place {_named(hosts)}: {self._wanted(hosts, bundle, avoid)}"
        return ConfigError(f"{message}; add nodes, or give a smaller --nnodes or layout", field="launcher", value="ray")

    def _wanted(self, hosts: Sequence[int], bundle: Mapping[str, float], avoid: Collection[str]) -> str:
        """What is asked for, and what the cluster has."""
        each = ", ".join(f"{count:g} {name}" for name, count in bundle.items())
        taken = f", none of them one of {len(avoid)} with other hosts" if avoid else ""
        here = ", one of them this host's" if 0 in hosts else ""
        has = "; ".join(map(str, self.nodes()))
        free = self._ray.available_resources()
        left = ", ".join(f"{free.get(name, 0):g} {name}" for name in bundle)
        return f"{len(hosts)} nodes with {each} each are asked for{here}{taken}; the cluster has: {has}; free: {left}"

    def facts(self, host: PlacedHost) -> tuple[dict[str, str], str]:
        """Versions there, and the host's name. ConfigError: the actor cannot start, as where weft is not installed."""
        try:
            found: tuple[dict[str, str], str] = self._ray.get(host.actor.facts.remote(), timeout=FACTS_S)
        except Exception as error:  # Ray has a kind of its own for each step of a start that fails
            message = f"Ray cannot start weft's actor on {host.node}: {_last_line(error)}"
            raise ConfigError(message, field="launcher", value="ray") from error
        return found

    def run(self, host: PlacedHost, words: Sequence[str], folder: str, secret: str) -> None:
        """Starts the agent."""
        host.running = host.actor.run.remote(list(words), folder, secret)

    def ended(self, host: PlacedHost) -> tuple[int, list[str]] | None:
        """Exit code of the agent that `run` started, and its last lines; None: it runs. PeerError: the actor, or its
        node, has ended."""
        done, _ = self._ray.wait([host.running], timeout=0)
        if not done:
            return None
        try:
            found: tuple[int, list[str]] = self._ray.get(host.running)
        except Exception as error:  # Ray has several kinds: an actor, a worker or a node that has ended
            raise PeerError(_first_line(error)) from error
        return found

    def remove(self, placed: PlacedGroup) -> None:
        """Its actors end, and with them the agents."""
        for host in placed.hosts.values():
            with suppress(Exception):  # its node may be gone
                self._ray.kill(host.actor, no_restart=True)
        with suppress(Exception):
            self._groups.remove_placement_group(placed.group)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        message = f"launcher ray: {error.name} is not installed: pip install 'weft[ray]'"
        raise ConfigError(message, field="launcher", value="ray") from error


def _named(hosts: Sequence[int]) -> str:
    return f"host{'s' if len(hosts) > 1 else ''} {', '.join(map(str, hosts))}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1]
