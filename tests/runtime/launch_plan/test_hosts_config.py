"""Options of several hosts, and what the plan makes of what each host has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import ConfigError, LayoutError
from weft.base.machine.cores import CoreShare, assign_cores
from weft.base.machine.own_addresses import Endpoint, own_addresses, parse_endpoint
from weft.base.settings import EngineConfig
from weft.compute.comm.registry import choose_backend
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.messages import PeerAddresses, WorldSetup
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig, divide_machines
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.supervisor.setups import setup_of

MIB = 1 << 20


def hosts(*memories: int, ranks: int = 1, kernels: tuple[str | None, ...] = ()) -> list[HostResources]:
    shares = tuple(CoreShare((rank,), 1) for rank in range(ranks))
    names = kernels or (None,) * len(memories)
    return [
        HostResources(f"node{number}", f"10.0.0.{number + 1}", "eth0", memory, shares, names[number])
        for number, memory in enumerate(memories)
    ]


def plan(path: Path, layout: dict[str, object], found: list[HostResources], **engine: Any) -> LaunchPlan:
    checkpoint = open_checkpoint(write_tiny_chat(path / "tiny"))
    return plan_launch(checkpoint, resolve(layout), EngineConfig(**engine), hosts=found)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("10.0.0.1:25000", "10.0.0.1", 25000), ("[fd00::1]:7", "fd00::1", 7), ("a.b:1", "a.b", 1)],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int) -> None:
    assert parse_endpoint("dist_init_addr", text) == Endpoint(host, port)
    assert str(Endpoint(host, port)) == text


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1:7", ":5", "a:0", "a:70000", "[a]:5", "a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="legal: HOST:PORT, an IPv6 address in brackets"):
        HostsConfig(dist_init_addr=text)


@pytest.mark.parametrize("text", ["5", "9-8", "0-5", "1-70000", "a-b"])
def test_what_is_no_range_of_ports_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="legal: LO-HI"):
        HostsConfig(dist_ports=text)


@pytest.mark.parametrize(
    ("given", "layout", "message"),
    [
        ({"nprocs_per_node": 2}, {"attention.tp": 2, "nodes": 2}, "2 x nnodes 2 = 4, but the layout has a world of 2"),
        ({}, {"attention.tp": 2, "nodes": 2}, "give --node-rank 0 to 1"),
        ({"node_rank": 2}, {"attention.tp": 2, "nodes": 2}, "there are 2 hosts; legal: 0 to 1"),
        ({"node_rank": 1}, {"attention.tp": 2, "nodes": 2}, "give --dist-init-addr HOST:PORT"),
        ({"node_rank": 1}, {"attention.tp": 2}, "the layout has one host; give --nnodes"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], layout: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HostsConfig(**given).check(resolve(layout))


LONG = "0123456789abcdef"


@pytest.mark.parametrize("mode", [0o600, 0o440, 0o640])
def test_a_secret_that_its_group_may_read_is_taken(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(LONG)
    file.chmod(mode)
    assert HostsConfig(dist_init_addr="10.0.0.1:5", dist_secret_file=str(file)).secret({})


def test_a_short_secret_is_refused_with_the_command_that_makes_one() -> None:
    with pytest.raises(ConfigError, match="has 15 bytes; at least 16 .*head -c 32 /dev/urandom"):
        HostsConfig(dist_init_addr="127.0.0.1:5").secret({"WEFT_DIST_SECRET": LONG[1:]})


def test_a_secret_is_needed_beyond_loopback_and_kept_from_others(tmp_path: Path) -> None:
    here = HostsConfig(dist_init_addr="127.0.0.1:5")
    beyond = HostsConfig(dist_init_addr="10.0.0.1:5")
    assert here.secret({}) != here.secret({"WEFT_DIST_SECRET": LONG}) == beyond.secret({"WEFT_DIST_SECRET": LONG})
    with pytest.raises(ConfigError, match="beyond the loopback address hosts need a secret"):
        beyond.secret({})
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    with_file = HostsConfig(dist_init_addr="10.0.0.1:5", dist_secret_file=str(file))
    with pytest.raises(ConfigError, match="it is empty"):
        with_file.secret({})
    file.write_text(LONG + "\n")
    assert with_file.secret({}) == beyond.secret({"WEFT_DIST_SECRET": LONG})
    with pytest.raises(ConfigError, match="both give the secret"):
        with_file.secret({"WEFT_DIST_SECRET": LONG})
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read it \(mode 644\); chmod 600 it"):
        with_file.secret({})


def test_this_host_has_a_loopback_address() -> None:
    assert ("127.0.0.1", "lo") in own_addresses()


def test_blocks_are_those_of_the_smallest_host(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"mem_fraction_static": 0.5, "max_num_seqs": 4, "max_num_batched_tokens": 64}
    even = plan(tmp_path, {"attention.tp": 2, "nodes": 2}, hosts(2048 * MIB, 2048 * MIB), **settings)
    uneven = plan(tmp_path, {"attention.tp": 2, "nodes": 2}, hosts(8192 * MIB, 2048 * MIB), **settings)
    assert even.memory is not None and uneven.memory is not None
    assert even.memory.num_blocks == uneven.memory.num_blocks > 0
    assert uneven.host_of == (0, 1)
    assert uneven.comm.name == "tcp"
    with pytest.raises(ConfigError, match="rank 1 .* needs"):
        plan(tmp_path, {"attention.tp": 2, "nodes": 2}, hosts(8192 * MIB, 200 * MIB), **settings)


def test_a_replica_on_a_host_of_its_own_shares_memory(tmp_path: Path) -> None:
    whole = plan(tmp_path, {"attention.tp": 2, "replicas": 2, "nodes": 2}, hosts(2048 * MIB, 2048 * MIB, ranks=2))
    assert whole.host_of == (0, 0, 1, 1)
    assert whole.comm.name in ("shared_memory", "gloo")
    second = whole.of_replica(1)
    assert (second.host_of, second.layout.nodes, second.first_rank) == ((1, 1), 1, 2)


def test_hosts_and_replicas_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(
        LayoutError, match="of 2 replicas one would have whole hosts and a part of another; legal: 1, 2, 6"
    ):
        plan(tmp_path, {"attention.dp": 3, "replicas": 2, "nodes": 3}, hosts(*(2048 * MIB,) * 3, ranks=2))


def test_ranks_of_several_hosts_need_these(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="nodes 2: the ranks of one host alone cannot start them"):
        plan(tmp_path, {"attention.tp": 2, "nodes": 2}, [])


def test_kernels_are_what_all_hosts_run(tmp_path: Path) -> None:
    layout: dict[str, object] = {"attention.tp": 2, "nodes": 2}
    mixed = plan(tmp_path, layout, hosts(2048 * MIB, 2048 * MIB, kernels=("amx", "avx2")), dtype="bfloat16")
    assert mixed.isa == "avx2"
    assert mixed.engine.block_size == 16
    assert any("kernels amx, of which avx2 is used" in line for line in mixed.settings())
    same = plan(tmp_path, layout, hosts(2048 * MIB, 2048 * MIB, kernels=("avx2", "avx2")), dtype="bfloat16")
    assert same.isa == ""


def test_a_devices_number_counts_on_its_host(tmp_path: Path) -> None:
    layout: dict[str, object] = {"attention.tp": 2, "attention.dp": 2, "nodes": 2}
    four = plan(tmp_path, layout, hosts(2048 * MIB, 2048 * MIB, ranks=2))
    world = WorldSetup(
        layout=four.layout,
        config=four.config,
        engine=four.engine,
        eos_token_ids=(),
        comm="tcp",
        comm_limit_s=1.0,
        join_limit_s=1.0,
        where=four.where,
        host_of=four.host_of,
        ranks_per_host=four.layout.ranks_per_node,
        vocabulary=four.vocabulary,
    )
    setups = [setup_of(world, rank, CoreShare((), 1), b"", PeerAddresses()) for rank in range(4)]
    assert [setup.local for setup in setups] == [0, 1, 0, 1]


def test_ranks_on_devices_of_several_hosts_call_over_tcp(tmp_path: Path) -> None:
    shards = plan(tmp_path, {"attention.tp": 2, "nodes": 2}, hosts(2048 * MIB, 2048 * MIB)).shards
    assert choose_backend("auto", shards, "cuda", hosts=2).name == "tcp"


@given(
    machines=st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
    ranks=st.integers(1, 3),
    cores=st.integers(1, 16),
    apart=st.booleans(),
)
def test_hosts_of_one_machine_have_cores_of_their_own(machines: list[str], ranks: int, cores: int, apart: bool) -> None:
    """Where there are enough; hosts that may use other cores, and the only host of a machine, keep theirs."""
    found = []
    for number, machine in enumerate(machines):
        first = number * cores if apart else 0
        own = tuple((cpu, cpu + 1000) for cpu in range(first, first + cores))
        found.append(HostResources(f"h{number}", "", "", 1, assign_cores(own, ranks), None, machine, own))
    divided = divide_machines(found)
    for machine in set(machines):
        mine = [new for new in divided if new.machine == machine]
        if apart or len(mine) == 1:
            assert mine == [old for old in found if old.machine == machine]
            continue
        used = [cpu for host in mine for share in host.shares for cpu in share.cpus]
        assert len(used) == len({*used}) and all(len(host.shares) == ranks for host in mine)
        if len(mine) * ranks <= cores:
            assert all(share.cpus and share.threads >= 1 for host in mine for share in host.shares)
            assert sum(share.threads for host in mine for share in host.shares) <= cores
