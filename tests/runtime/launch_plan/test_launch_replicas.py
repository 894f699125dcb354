"""What of a plan is each replica's own, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plans import planned
from tests.support.tiny_chat import write_tiny_chat
from weft.runtime.ipc.fingerprint import Settings
from weft.runtime.launch_plan import plan as plans
from weft.runtime.launch_plan import resolved_engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def test_a_replica_is_a_world_of_its_own(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "available_cores", lambda: tuple((cpu,) for cpu in range(8)))
    monkeypatch.setattr(plans, "cpu_quota", lambda: None)
    whole = planned(model, {"replicas": 2, "attention.dp": 2, "dense.tp": 2})
    parts = [whole.of_replica(replica) for replica in range(2)]
    assert whole.layout.world == 4 and [part.layout.world for part in parts] == [2, 2]
    assert [name for part in parts for name in part.where] == list(whole.where)
    assert whole.where[3] == "rank 3 (replica 1, dp 1)"
    assert [part.first_rank for part in parts] == [0, 2]
    assert [share for part in parts for share in part.cores] == list(whole.cores)
    assert [share.cpus for share in whole.cores] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert whole.memory is not None and all(part.memory is not None for part in parts)
    assert [rank for part in parts if part.memory for rank in part.memory.ranks] == list(whole.memory.ranks)
    assert {part.memory.num_blocks for part in parts if part.memory} == {whole.memory.num_blocks}
    assert parts[0].engine.seed == whole.engine.seed != parts[1].engine.seed
    assert all(max(group) < 2 for part in parts for group in part.comm.groups)


def test_one_replica_is_the_plan_itself(model: Path) -> None:
    plan = planned(model, {"attention.dp": 2})
    assert plan.of_replica(0) is plan and plan.where == ("rank 0 (dp 0)", "rank 1 (dp 1)")


def test_replicas_of_one_rank_need_no_collectives(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved_engine, "torch_without_devices", lambda: None)
    assert planned(model, {"replicas": 3}).comm.name == "none"
    assert planned(model, {"replicas": 3}, device="cuda").of_replica(2).first_rank == 2
    assert planned(model, {"replicas": 3, "attention.dp": 2}, device="cuda").of_replica(2).first_rank == 4


def test_replicas_share_the_memory(model: Path) -> None:
    one, four = planned(model, {}).memory, planned(model, {"replicas": 4}).memory
    assert one is not None and four is not None and len(four.ranks) == 4
    assert all(rank.share is not None and one.ranks[0].share is not None for rank in four.ranks)
    assert max(rank.share or 0 for rank in four.ranks) < (one.ranks[0].share or 0) / 3


def test_replicas_must_agree_whenever_they_start() -> None:
    agreed = Settings()
    first = {"torch": "2.0", "engine.seed": "0"}
    assert agreed.check("rank 0 (replica 0)", first) is None
    assert agreed.check("rank 1 (replica 1)", first | {"engine.seed": "5"}) is None
    error = agreed.check("rank 1 (replica 1)", first | {"torch": "3.0"})
    assert error is not None and error.exit_code == 78
    assert "torch: rank 0 (replica 0) has 2.0, rank 1 (replica 1) has 3.0" in str(error)
    assert agreed.check("rank 1 (replica 1)", first) is None
