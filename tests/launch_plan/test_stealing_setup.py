"""Whether a rank steals work: where it can, never where that is off; refused where it was asked for in vain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.native_libraries import need
from weft.checkpoint import embedded_model, open_checkpoint
from weft.comm.shm.arena import NoArenaError, SharedArena
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.errors import ConfigError
from weft.launch_plan import plan as plans
from weft.launch_plan.plan import plan_launch
from weft.layout.resolve import resolve
from weft.ops.native.step_ops import StepOps
from weft.settings import EngineConfig
from weft.worker import threads


def setup(own_cores: bool, asked: bool | None) -> Any:
    """As much of a rank's first message as settling reads."""
    cpus = [5, 1] * own_cores
    engine = SimpleNamespace(steal_work=asked, device="cpu")
    world = SimpleNamespace(engine=engine, host_of=(0, 0), layout=resolve({}))
    return SimpleNamespace(cpus=cpus, world=world, yields_core=False)


@pytest.mark.parametrize(
    "own_cores, asked, world, said",
    [
        (True, None, 2, "; cpu 5 steals work while this rank waits"),
        (True, True, 2, "; cpu 5 steals work while this rank waits"),
        (False, None, 2, "; no work stealing: ranks have no cores of their own"),
        (True, False, 2, ""),
        (True, None, 17, "; no work stealing: the machine has more than 16 ranks"),
        (True, None, 1, ""),
    ],
)
def test_a_rank_steals_work_only_where_it_has_cores_and_may(
    own_cores: bool, asked: bool | None, world: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steals = own_cores and asked is not False and world == 2
    stealing, published = [], []
    ops: Any = object.__new__(StepOps)
    comm = object.__new__(SharedMemoryComm)
    yields: list[bool] = []
    ops.pool = SimpleNamespace(
        pin=lambda _: None,
        threads=1,
        queue_bytes=128,
        steal_function=7,
        publish=lambda *given: published.append(given),
        yield_core=yields.append,
    )
    comm.world = world
    monkeypatch.setattr(SharedMemoryComm, "start_stealing", lambda _, steal: stealing.append(steal))
    monkeypatch.setattr(SharedMemoryComm, "team_port", lambda _: "port")
    monkeypatch.setattr(threads, "available_cores", lambda: ((5, 2), (1, 3)))
    monkeypatch.setattr("weft.worker.threads.torch.set_num_threads", lambda _: None)
    runner: Any = SimpleNamespace(program=object(), ops=ops)
    arena = object.__new__(SharedArena)
    monkeypatch.setattr(SharedArena, "take", lambda _, nbytes: 4096 + nbytes)
    assert threads.pin_threads(runner, comm, setup(own_cores, asked), arena) == said
    assert yields == [False] * own_cores
    assert (stealing, published) == (([7], [("port", 4096 + 128)]) if steals else ([], []))


def test_a_rank_without_an_arena_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: Any = object.__new__(StepOps)
    comm = object.__new__(SharedMemoryComm)
    ops.pool = SimpleNamespace(pin=lambda _: None, threads=1, yield_core=lambda _: None)
    comm.world = 2
    monkeypatch.setattr(threads, "available_cores", lambda: ((5, 2), (1, 3)))
    monkeypatch.setattr("weft.worker.threads.torch.set_num_threads", lambda _: None)
    runner: Any = SimpleNamespace(program=object(), ops=ops)
    none = NoArenaError("too few addresses (ulimit -v)")
    said = threads.pin_threads(runner, comm, setup(True, None), none)
    assert said == "; no work stealing: too few addresses (ulimit -v)"
    with pytest.raises(ConfigError, match="steal_work: too few addresses"):
        threads.pin_threads(runner, comm, setup(True, True), none)


def test_ranks_without_a_program_or_shared_memory_steal_nothing_and_say_so() -> None:
    runner: Any = SimpleNamespace(program=None, ops=None)
    comm: Any = object.__new__(SharedMemoryComm)
    elsewhere: Any = SimpleNamespace(world=2)
    comm.world = 2
    said = [threads.pin_threads(runner, each, setup(True, None), None) for each in (comm, elsewhere)]
    why = ("steps are no program", "ranks do not meet in shared memory")
    assert said == [f"; no work stealing: {each}" for each in why]
    assert threads.pin_threads(runner, comm, setup(True, False), None) == ""
    for each, reason in zip((comm, elsewhere), why, strict=True):
        with pytest.raises(ConfigError, match=f"steal_work: {reason}; leave --steal-work out"):
            threads.pin_threads(runner, each, setup(True, True), None)


@pytest.mark.parametrize(
    ("ranks", "settings", "backend", "reason"),
    [
        (1, {}, "auto", "one rank waits for no other"),
        (2, {}, "gloo", "ranks do not meet in shared memory"),
        (2, {"enforce_eager": True}, "auto", "steps are no program"),
        (2, {}, "auto", "ranks have no cores of their own"),
    ],
)
def test_work_stealing_that_was_asked_for_and_cannot_be_is_refused_before_any_rank_starts(
    ranks: int, settings: dict[str, Any], backend: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("comm")
    monkeypatch.setattr(plans, "available_cores", lambda: ((0,),) if "own" in reason else ((0,), (1,)))
    checkpoint, layout = open_checkpoint(embedded_model(print)), resolve({}, tp=ranks)
    with pytest.raises(ConfigError, match=f"steal_work: {reason}") as found:
        plan_launch(checkpoint, layout, EngineConfig(steal_work=True, **settings), backend)
    assert found.value.field == "steal_work"
    plan_launch(checkpoint, layout, EngineConfig(**settings), backend)
