"""What ranks get as an error when another rank dies, stops, leaves, fails or calls something else. Real processes."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

NEVER = 120.0  # a time limit of the collectives that no test waits for
STOPPED = {"timeout": 2.5, "stopped": 1, "signal": int(signal.SIGSTOP)}


def errors(outcome: dict[str, Any]) -> list[str]:
    return [rank.get("error", "") for rank in outcome["ranks"]]


def names_the_absent(error: str, rank: int) -> bool:
    """By this rank's own time limit, or by that of another that came first; a busy machine may make others late too."""
    return bool(re.search(rf"(ranks? ([0-9]+, )*{rank}(, [0-9]+)* did not come|gave up on rank {rank};)", error))


def is_told(error: str) -> bool:
    """Of the disagreement itself, or of a rank that met it: it gave up, or its process has ended by now."""
    return error.startswith(("PeerError: ", "MismatchError: ")) and any(
        word in error for word in ("disagree", "gave up", "died")
    )


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier"])
def test_a_killed_rank_is_named(rank_host: Any, backend: str, kind: str) -> None:
    outcome = rank_host.run(
        backend, 3, "die", timeout=NEVER, victim=1, signal=int(signal.SIGKILL), kind=kind, count=20_000
    )
    assert outcome["ranks"][1]["signal"] == signal.SIGKILL
    for rank in (0, 2):
        error = outcome["ranks"][rank]["error"]
        # over tcp a rank can hear of it from another one before its own connection ends
        heard = backend == "tcp" and names_the_absent(error, 1)
        assert heard or error.startswith("PeerError: rank 1 died"), outcome
        assert f"rank {rank} was in {kind} over (0, 1, 2)" in outcome["ranks"][rank]["error"]
        # far from the time limit: the death itself ended the wait
        assert outcome["ranks"][rank]["after"] < NEVER / 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_of_two(rank_host: Any, backend: str, victim: int) -> None:
    """Rank 0 holds gloo's store: its death must be named as well as any."""
    outcome = rank_host.run(
        backend, 2, "die", timeout=NEVER, victim=victim, signal=int(signal.SIGKILL), kind="all_reduce", count=10
    )
    assert f"rank {victim} died" in errors(outcome)[1 - victim]


def test_a_stopped_rank_is_named(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 3, "die", victim=2, kind="all_reduce", count=10, **STOPPED)
    assert outcome["ranks"][2]["signal"] == signal.SIGKILL
    assert all(names_the_absent(error, 2) for error in errors(outcome)[:2]), outcome


def test_records_tell_where_a_stopped_rank_was(rank_host: Any, native_comm: None) -> None:
    outcome = rank_host.run("shared_memory", 2, "die", victim=1, kind="all_gather", count=10, **STOPPED)
    assert "all_gather over (0, 1), call " in outcome["records"][1]
    assert "rank 0 has been for" in outcome["records"][0]


def test_a_rank_that_does_not_come_is_named(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 3, "absent_rank", timeout=2.5, stopped=1)
    assert outcome["ranks"][2]["signal"] == signal.SIGKILL
    assert all(names_the_absent(error, 2) for error in errors(outcome)[:2]), outcome


def test_a_rank_with_an_error_of_its_own(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 3, "fail_alone", timeout=NEVER)
    assert errors(outcome)[0] == "ArithmeticError: rank 0's own error"
    for error in errors(outcome)[1:]:
        assert error.startswith("PeerError: ") and "rank" in error and "died" in error and "0" in error


def test_a_rank_that_closed_is_named(rank_host: Any, native_comm: None) -> None:
    outcome = rank_host.run("shared_memory", 2, "leave", timeout=NEVER, sleep=1.0)
    assert errors(outcome)[1].startswith("PeerError: rank 0 has closed its end; rank 1 was in barrier over (0, 1)")


def test_a_rank_may_close_while_others_go_on(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 3, "bystander_leaves", timeout=NEVER)
    assert [rank.get("value") for rank in outcome["ranks"]] == ["2.0", "2.0", "closed"]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("how", ["kinds", "dtypes", "sizes", "splits", "gather sizes", "pairs"])
def test_ranks_that_disagree(rank_host: Any, native_comm: None, how: str, world: int) -> None:
    outcome = rank_host.run("shared_memory", world, "disagree", timeout=NEVER, how=how)
    messages = [error for error in errors(outcome) if "disagree" in error]
    assert messages and all(
        error.startswith("MismatchError: ranks") and "rank 1: call " in error for error in messages
    ), outcome
    assert all(is_told(error) for error in errors(outcome)), outcome


@pytest.mark.parametrize("how", ["kinds", "dtypes", "sizes", "splits", "gather sizes", "pairs", "shapes"])
def test_ranks_that_disagree_in_a_debug_run(rank_host: Any, backend: str, how: str) -> None:
    outcome = rank_host.run(backend, 3, "disagree", debug=True, timeout=NEVER, how=how)
    messages = [error for error in errors(outcome) if "disagree" in error]
    assert messages and all(error.startswith(("PeerError: ", "MismatchError: ")) for error in messages), outcome
    assert all(is_told(error) for error in errors(outcome)), outcome
    if how == "shapes":
        assert "[2, 6]" in messages[0] and "[3, 4]" in messages[0]
    if how == "kinds":
        assert "all_gather" in messages[0] and "all_reduce" in messages[0]


def test_shapes_of_equal_size_pass_where_nothing_compares_them(rank_host: Any, native_comm: None) -> None:
    """What a debug run adds: without it only sizes are compared."""
    outcome = rank_host.run("shared_memory", 2, "disagree", timeout=NEVER, how="shapes")
    assert [rank.get("value") for rank in outcome["ranks"]] == ["returned", "returned"]


def test_a_failure_elsewhere_ends_the_wait(rank_host: Any, native_comm: None) -> None:
    outcome = rank_host.run("shared_memory", 3, "disagree_elsewhere", timeout=NEVER)
    messages = errors(outcome)
    assert "disagree" in messages[0] and "disagree" in messages[1]
    # whichever of the two the bystander sees first, if it looks before their processes have ended
    assert re.search("rank 0 gave up on rank 1;|rank 1 gave up on rank 0;|rank [01] died", messages[2]), messages


def test_a_failed_comm_stays_failed(rank_host: Any, backend: str) -> None:
    outcome = rank_host.run(backend, 2, "use_after_failure", debug=True, timeout=NEVER)
    for rank in outcome["ranks"]:
        assert rank["value"].startswith("PeerError: barrier over (0, 1)"), outcome
