"""Cores that a person lists: how lists are read, what they give each rank and the server, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.plans import planned
from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import ConfigError
from weft.base.machine.cores import Core, CoreShare, as_runs, assign_cores, server_cpus, yield_core
from weft.base.settings import EngineConfig
from weft.runtime.launch_plan import plan as plans
from weft.runtime.launch_plan import resolved_engine
from weft.runtime.launch_plan.cpu_affinity import CpuAssignment, assign_cpus, read_list

TWO: tuple[Core, ...] = ((0,), (1,))
PAIRS: tuple[Core, ...] = ((0, 4), (1, 5), (2, 6), (3, 7))
"""Four cores of two hardware threads each."""


def assigned(cores: tuple[Core, ...], ranks: int, quota: float | None = None, **given: Any) -> CpuAssignment:
    return assign_cpus(cores, ranks, quota, EngineConfig(**given), can_yield=ranks == 1)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("3", {3}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        (" 0 , 2-3 ", {0, 2, 3}),
        ("0-6:2", {0, 2, 4, 6}),
        ("1-1,1", {1}),
        *((text, None) for text in ("", ",", "1,", "a", "3-1", "-1", "1-", "1-2-3", "0-4:0", "1:2", "0x1", "1.5", "²")),
        ("0-999999999", None),
    ],
)
def test_lists_are_read_as_taskset_reads_them(text: str, cpus: set[int] | None) -> None:
    assert read_list(text) == cpus


@given(st.sets(st.integers(0, 200), min_size=1))
def test_what_is_shown_can_be_listed(cpus: set[int]) -> None:
    assert read_list(as_runs(tuple(sorted(cpus)))) == frozenset(cpus)


@given(st.lists(st.integers(0, 4), min_size=16, max_size=16), st.one_of(st.none(), st.floats(0.1, 9)))
@example([*[0] * 14, 1, 2], 3.0)
def test_ranks_run_where_they_are_listed_and_the_server_beside_their_threads(
    owners: list[int], quota: float | None
) -> None:
    """`owners`: the rank of each CPU of eight cores; 4: no rank's."""
    cores = tuple((cpu, cpu + 8) for cpu in range(8))
    lists = [{cpu for cpu, owner in enumerate(owners) if owner == rank} for rank in range(4)]
    lists = [each for each in lists if each]
    if not lists:
        return
    found = assigned(cores, len(lists), quota, cpus="|".join(as_runs(tuple(sorted(each))) for each in lists))
    assert [{*share.cpus} for share in found.shares] == lists
    counts = [len({cpu % 8 for cpu in each}) for each in lists]
    threads = [share.threads for share in found.shares]
    assert all(1 <= got <= cores for got, cores in zip(threads, counts, strict=True))
    assert quota is not None or threads == counts, "a thread for each physical core"
    assert quota is None or sum(threads) <= max(len(lists), quota + 0.5)
    busy = {cpu for share in found.shares for cpu in share.cpus if cpu not in share.spare}
    assert not busy & {*found.server} or found.server == found.shares[-1].yielded
    untouched = [cpu for cpu in range(16) if owners[cpu % 8] == owners[cpu % 8 + 8] == 4]
    assert {*untouched} <= {*found.server}, "cores on no list are the server's"


def test_without_lists_the_rule_decides() -> None:
    for ranks, threads in ((1, None), (2, None), (3, None), (5, None), (2, 1), (2, 3)):
        shares = assign_cores(PAIRS, ranks, None, threads)
        wanted = yield_core(shares, PAIRS) if ranks == 1 else shares
        assert assigned(PAIRS, ranks, threads=threads) == CpuAssignment(wanted, server_cpus(wanted))


def test_the_server_beside_lists() -> None:
    whole = CoreShare((0, 1), 2)
    giving = CoreShare((0, 1), 2, (), (1,))
    assert (
        assigned(TWO, 1, cpus="0-1") == CpuAssignment((giving,), (1,)) == assigned(TWO, 1, cpus="0-1", server_cpus="1")
    )
    assert assigned(TWO, 1, cpus="1") == CpuAssignment((CoreShare((1,), 1),), (0,)), "the core that no rank has"
    assert assigned(TWO, 2, cpus="1|0") == CpuAssignment((CoreShare((1,), 1), CoreShare((0,), 1)), ())
    assert assigned(PAIRS, 1, cpus="0-1") == CpuAssignment((whole,), (2, 3, 6, 7))
    assert assigned(PAIRS, 1, cpus="0-1", server_cpus="4,7") == CpuAssignment((whole,), (4, 7)), (
        "beside a thread, on its core"
    )
    assert assigned(PAIRS, 1, cpus="0-1", server_cpus="1") == CpuAssignment((giving,), (1,))
    assert assigned(PAIRS, 1, cpus="0-2", threads=2).server == (2, 3, 7), "what --threads leaves, too"
    assert assigned(PAIRS, 2, cpus="0,4|1").shares[0] == CoreShare((0, 4), 1), "two hardware threads, one core"
    assert assigned(PAIRS, 2, 2.0, cpus="0-2|3").shares == (CoreShare((0, 1, 2), 1, (1, 2)), CoreShare((3,), 1))


def test_ranks_are_dealt_what_the_server_does_not_get() -> None:
    assert assigned(TWO, 1, server_cpus="1") == CpuAssignment((CoreShare((0,), 1),), (1,))
    assert assigned(PAIRS, 2, server_cpus="3,7") == CpuAssignment(
        (CoreShare((0, 4), 1), CoreShare((1, 2, 5, 6), 1, (2, 6))), (3, 7)
    )
    assert [share.cpus for share in assigned(PAIRS, 2, server_cpus="3").shares] == [(0, 1, 4, 5), (2, 6, 7)]


LEGAL = "legal: a list for each, none with another's CPUs"


@pytest.mark.parametrize(
    ("cores", "ranks", "given", "text"),
    [
        (TWO, 2, {"cpus": "0"}, f"cpus '0': 1 list for 2 ranks; {LEGAL}, as '0|1'"),
        (TWO, 1, {"cpus": "0|1"}, f"cpus '0|1': 2 lists for 1 rank; {LEGAL}, as '0-1'"),
        (PAIRS, 2, {"cpus": "0"}, f"cpus '0': 1 list for 2 ranks; {LEGAL}, as '0-1,4-5|2-3,6-7'"),
        (TWO, 3, {"cpus": "0"}, "none with another's CPUs; this process may use 2 CPUs: leave cpus out"),
        (TWO, 2, {"cpus": "0|"}, f"cpus '0|': the list of rank 1 is empty; {LEGAL}, as '0|1'"),
        (TWO, 2, {"cpus": "0|1-x"}, "cpus '0|1-x': '1-x' is no list of CPUs; legal: CPU numbers and runs"),
        (TWO, 1, {"cpus": "0-3"}, "cpus '0-3': this process may not use 2-3; legal: 0-1"),
        (TWO, 2, {"cpus": "0-1|1"}, f"cpus '0-1|1': ranks 0 and 1 would share cpu 1; {LEGAL}"),
        (PAIRS, 2, {"cpus": "0-2|3,7", "threads": 2}, "threads 2: cpus has 1 core for rank 1; legal: 1"),
        (TWO, 1, {"server_cpus": "1|0"}, "server_cpus '1|0': '1|0' is no list of CPUs; legal: CPU numbers"),
        (TWO, 1, {"server_cpus": "0,9"}, "server_cpus '0,9': this process may not use 9; legal: 0-1"),
        (TWO, 2, {"server_cpus": "1"}, "'1': it leaves 1 core to 2 threads of 2 ranks; leave server_cpus out"),
        (TWO, 1, {"server_cpus": "0-1"}, "it leaves 0 cores to 1 thread of 1 rank; legal: CPUs of at most 1 core, or"),
        (PAIRS, 2, {"server_cpus": "3,7", "threads": 2}, "server_cpus '3,7': it leaves 3 cores to 4 threads"),
        (
            PAIRS,
            1,
            {"cpus": "0-1", "server_cpus": "1,2"},
            "server_cpus '1,2': on cpu 1 it would interrupt a thread of rank 0;"
            " legal: 2-7, or 1 alone, which the last thread yields",
        ),
        (
            TWO,
            2,
            {"cpus": "0|1", "server_cpus": "0"},
            "server_cpus '0': on cpu 0 it would interrupt a thread of rank 0; leave server_cpus out",
        ),
    ],
)
def test_lists_that_cannot_be_are_refused(
    cores: tuple[Core, ...], ranks: int, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        assigned(cores, ranks, **given)
    assert text in str(caught.value)
    assert caught.value.field == str(caught.value).split()[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_has_and_shows_what_is_listed(model: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "available_cores", lambda: tuple((cpu,) for cpu in range(8)))
    monkeypatch.setattr(plans, "cpu_quota", lambda: None)
    monkeypatch.setattr(resolved_engine, "torch_without_devices", lambda: None)
    plan = planned(model, {"replicas": 2}, cpus="4-6|1", server_cpus="0,7", device=device)
    assert plan.server_cpus == (0, 7)
    assert [plan.of_replica(replica).cores[0].cpus for replica in range(2)] == [(4, 5, 6), (1,)]
    assert plan.settings()[-3:] == [
        "rank 0 (replica 0): 3 threads on cpus 4-6",
        "rank 1 (replica 1): 1 thread on cpus 1",
        "HTTP server and scheduler on cpus 0, 7",
    ]
    with pytest.raises(ConfigError, match="cpus '4-6': 1 list for 2 ranks; .* as '0-3|4-7'"):
        planned(model, {"replicas": 2}, cpus="4-6", device=device)
