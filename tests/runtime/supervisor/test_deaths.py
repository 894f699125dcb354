"""Each cause of a rank's death, and whether requests become suspects: one table for code, documents and these tests."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from weft.base.deaths import BLAMED, Death, may_blame
from weft.base.errors import DeadlockError, HostLostError, MismatchError, PeerError, WeftError
from weft.base.machine.control_groups import oom_kills
from weft.runtime.ipc.messages import error_of, failure_of
from weft.runtime.supervisor import watch
from weft.runtime.supervisor.watch import Watch

ROOT = Path(__file__).resolve().parents[3]


def test_the_document_has_the_same_table() -> None:
    page = (ROOT / "docs" / "faults.md").read_text().split("| cause | suspects |\n|---|---|\n")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| (.*) \| (yes|no) \|$", page, re.M))
    assert rows == {death.value: "yes" if death in BLAMED else "no" for death in Death}


class Rank:
    """A RankLink that has ended, or is late."""

    def __init__(self, rank: int, *, code: int | None = None, oom: bool = False, stopped: bool = False, cpu: float = 0):
        self.rank = self.number = rank
        self.where, self.pid, self.lost_host = f"rank {rank}", 100 + rank, ""
        self._code, self._oom, self._stopped, self._cpu, self._asked = code, oom, stopped, cpu, 0

    def fds(self) -> tuple[int, ...]:
        return ()

    def exit_code(self) -> int | None:
        return self._code

    def fate(self) -> str | None:
        if self._code is None:
            return None
        return f"was killed by signal {-self._code}" if self._code < 0 else f"ended with exit code {self._code}"

    def out_of_memory(self) -> bool:
        return self._oom

    def stopped(self) -> bool:
        return self._stopped

    def cpu_s(self) -> float:
        self._asked += 1
        return self._cpu * self._asked

    def waiting(self) -> bytes | None:
        return None


def watched(*ranks: Rank) -> Watch:
    status: Any = SimpleNamespace(read=lambda rank: SimpleNamespace(phase="serving"), collective=lambda *_: None)
    rendezvous: Any = SimpleNamespace(refresh=lambda: None, records=lambda: (), groups=(), mark_dead=lambda rank: None)
    links: Any = ranks
    return Watch(links, status, rendezvous)


SIGNALS = {
    **dict.fromkeys((signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT), Death.CRASH),
    **dict.fromkeys((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP), Death.KILLED),
}


@pytest.mark.parametrize(("number", "death"), SIGNALS.items())
def test_signals(number: signal.Signals, death: Death) -> None:
    dead = Rank(0, code=-number)
    error = watched(dead, Rank(1)).diagnose(dead, None)  # type: ignore[arg-type]
    assert isinstance(error, PeerError) and error.death is death
    assert may_blame(error) == (death is Death.CRASH)


def test_a_kill_beside_an_out_of_memory_count() -> None:
    dead = Rank(0, code=-signal.SIGKILL, oom=True)
    error = watched(dead).diagnose(dead, None)  # type: ignore[arg-type]
    assert isinstance(error, PeerError) and error.death is Death.OUT_OF_MEMORY and may_blame(error)


@pytest.mark.parametrize(
    ("rank", "death"),
    [
        (Rank(0, cpu=1.0), Death.BUSY),
        (Rank(0), Death.LATE),
        (Rank(0, stopped=True), Death.SUSPENDED),
        (Rank(0, stopped=True, cpu=1.0), Death.SUSPENDED),
    ],
)
def test_ranks_past_the_step_limit(rank: Rank, death: Death, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BUSY_S", 0.01)
    error = watched(rank, Rank(1)).silent([0], 1.0, "step 3")
    assert error.death is death and may_blame(error) == (death is Death.BUSY)


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (ValueError("a bug"), True),
        (WeftError("an error of its own"), True),
        (MismatchError("ranks 0 and 1 disagree"), True),
        (PeerError("rank 1 gave up"), False),
        (DeadlockError("no rank can go on"), False),
        (HostLostError("host 1 is lost"), False),
    ],
)
def test_errors_of_ranks_keep_their_cause_on_the_way(error: Exception, blamed: bool) -> None:
    assert may_blame(error) == blamed
    assert may_blame(error_of(failure_of(error), "rank 0")) == (blamed or isinstance(error, HostLostError) and blamed)


def test_out_of_memory_kills_are_counted_everywhere(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/unit\n0::/slice\n")
    for folder, file, text in (
        ("memory/unit", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("slice", "memory.events", "low 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 1\n"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_text(text)
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 5\n")
    assert oom_kills(tmp_path, own, tmp_path / "vmstat") == 10
    assert oom_kills(tmp_path / "nothing", own, tmp_path / "none") == 0
