"""Waiting for ranks: their messages, their deaths, and a deadline, in one poll.

Errors name the cause: ranks that fail because a peer is gone are not blamed while the peer can be found.
"""

from __future__ import annotations

import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from weft.base.deaths import Death
from weft.base.errors import CheckpointError, HostLostError, PeerError, WeftError
from weft.base.plural import counted
from weft.compute.comm.backend import Rendezvous
from weft.compute.comm.shm.region import CollectiveKind, RankRecord
from weft.runtime.ipc.messages import Failed, FromRank, error_of, unpack_from_rank
from weft.runtime.ipc.phases import Phase
from weft.runtime.ipc.status import StatusPage
from weft.runtime.supervisor.link import RankGoneError, RankLink
from weft.runtime.supervisor.processes import FRAME_S

READING_S = 60.0
"""How long the other ranks may go on reading once one has found a problem in the files."""
DIAGNOSIS_S = 1.0
"""How long to look for the first cause after a rank failed or vanished."""

CRASHES = frozenset(-number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT))
"""Exit codes of ranks that ended themselves by a fault."""
BUSY_S, BUSY_SHARE = 0.3, 0.5
"""How long a late rank is watched, and the share of that time in which it must use its processor to count as busy: a
rank that waits in a collective sleeps."""
_RANKS = re.compile(r"\branks? \d")
"""In a rank's message, ranks are numbered within its replica."""

_GAVE_UP = re.compile(r"rank \d+ gave up ")
"""How a rank's message begins that has no other reason than another rank's."""


def _caused(error: PeerError, death: Death) -> PeerError:
    error.death = death
    return error


def _death_of(worker: RankLink) -> Death:
    """The cause of a death by a signal."""
    if worker.exit_code() in CRASHES:
        return Death.CRASH
    return Death.OUT_OF_MEMORY if worker.out_of_memory() else Death.KILLED


class Watch:
    """All ranks' channels and pidfds in one poll object."""

    def __init__(self, workers: Sequence[RankLink], status: StatusPage, rendezvous: Rendezvous) -> None:
        self.workers, self.status, self.rendezvous = tuple(workers), status, rendezvous
        self._poll = select.poll()
        self._by_fd: dict[int, RankLink] = {}
        for worker in workers:
            for fd in worker.fds():
                self._by_fd[fd] = worker
                self._poll.register(fd, select.POLLIN)

    def messages(self, deadline: Callable[[], float]) -> Iterator[tuple[RankLink, FromRank]]:
        """Messages as they come, until the monotonic `deadline`, asked anew each time. Raises the cause when a rank
        fails or dies."""
        while time.monotonic() < (until := deadline()):
            for each in self.ready(until):
                yield self.read(each)

    def ready(self, until: float) -> list[tuple[int, int]]:
        """What there is to `read`; nothing where the monotonic `until` comes first. No generator, as `read` is none:
        engines call both in every step, after which Python's own code is in no cache."""
        while (left := until - time.monotonic()) > 0:
            if found := self._poll.poll(left * 1000):
                return found
        return []

    def wait(self, wake_fd: int, timeout_s: float | None = None) -> None:
        """Sleeps until `wake_fd` is readable; raises the cause when a rank fails or dies meanwhile."""
        self._poll.register(wake_fd, select.POLLIN)
        try:
            ready = self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        finally:
            self._poll.unregister(wake_fd)
        for fd, _ in ready:
            if fd != wake_fd:
                worker, message = self.read((fd, select.POLLIN))
                raise PeerError(f"{worker.where} sent {type(message).__name__} while nothing was asked")

    def read(self, ready: tuple[int, int]) -> tuple[RankLink, FromRank]:
        """A message of what is `ready`, and its sender; raises the cause when a rank failed or died."""
        link = self._by_fd[ready[0]]
        try:
            worker, frame = link.take(ready[0], FRAME_S)
        except RankGoneError as error:
            raise self.diagnose(error.link, None) from error
        except TimeoutError as error:
            raise self.diagnose(link, None) from error
        message = unpack_from_rank(frame)
        if isinstance(message, Failed):
            raise self.diagnose(worker, message)
        return worker, message

    def diagnose(self, first: RankLink, failed: Failed | None) -> WeftError:
        """The error that names the cause: a rank's own failure, else a killed rank, else a peer's complaint."""
        failures = {first.rank: failed} if failed is not None else {}
        # Ranks read different parts of the files: a person wants all that is wrong with them, not the first rank's.
        reading = failed is not None and failed.family == "CheckpointError"
        deadline = time.monotonic() + (READING_S if reading else DIAGNOSIS_S)
        while time.monotonic() < deadline:
            if not reading:
                self._mark_dead()
            self._collect(failures)
            if reading:
                if not any(self._reads(worker, failures) for worker in self.workers):
                    break
            elif (
                self._cause(failures) is not None
                or self._killed()
                or self._host_lost()
                or self._ended_alone(first, failures)
            ):
                break
            time.sleep(0.02)
        self._mark_dead()  # a channel closes before its process has ended: it may have ended since
        return self._verdict(first, failures)

    def _mark_dead(self) -> None:
        """They may wait for a dead rank in a collective; they end with its name, and what else they have to say."""
        for worker in self.workers:
            if worker.fate() is not None:
                self.rendezvous.mark_dead(worker.rank)

    def _ended_alone(self, first: RankLink, failures: dict[int, Failed]) -> bool:
        """It ended without a word, and not because of a peer: it is the cause itself."""
        code = first.exit_code()
        return code is not None and code != PeerError.exit_code and first.rank not in failures

    def _verdict(self, first: RankLink, failures: dict[int, Failed]) -> WeftError:
        if lost := self._host_lost():
            return HostLostError(f"{lost[0].lost_host}; {self.epitaph(lost[0])}" + self._waiting_for(lost))
        killed = self._killed()
        if killed:
            return _caused(PeerError(self.epitaph(killed[0])), _death_of(killed[0]))
        worker = self._cause(failures) or self._with_reason(first, failures)
        if worker is not None and failures[worker.rank].family == "CheckpointError":
            return self._unreadable(failures)
        if worker is not None:
            failed = failures[worker.rank]
            own = self.workers[0].number and _RANKS.search(failed.message)
            counted = f", where rank 0 is {self.workers[0].where}" if own else ""
            return error_of(failed, f"{worker.where} pid {worker.pid}{counted}")
        dead = next((w for w in (first, *self.workers) if w.fate() is not None), first)
        ended = dead.exit_code() not in (None, PeerError.exit_code)
        return _caused(PeerError(self.epitaph(dead)), Death.EXCEPTION if ended else Death.LINK)

    def _unreadable(self, failures: dict[int, Failed]) -> WeftError:
        """Every rank's problems with the files, each once."""
        failed_reads = [failure for _, failure in sorted(failures.items()) if failure.family == "CheckpointError"]
        problems = tuple(dict.fromkeys(problem for failure in failed_reads for problem in failure.problems))
        where = [w.where for w in self.workers if failures.get(w.rank) in failed_reads]
        count = counted(len(problems), "problem")
        return CheckpointError(f"{', '.join(where)}: {count} with the model's files", problems)

    def epitaph(self, worker: RankLink) -> str:
        """'rank 1 (dp 1) pid 123 was killed by SIGKILL in phase serving, in step 7; rank 1 has been for ... in ...'."""
        fate = worker.fate() or "closed its channel"
        status = self.status.read(worker.rank)
        parts = [f"{worker.where} pid {worker.pid} {fate} in {status}", self._last(worker.rank)]
        if "SIGKILL" in fate and status.phase in (Phase.LOAD, Phase.CACHE, Phase.WARM_UP):
            parts.append("this may be the system's answer to too little memory")
        return "; ".join(part for part in parts if part)

    def _host_lost(self) -> list[RankLink]:
        return [worker for worker in self.workers if worker.lost_host]

    def _waiting_for(self, lost: Sequence[RankLink]) -> str:
        """Which ranks wait in a collective for ranks of a lost host."""
        gone = {worker.number for worker in lost}
        records = [self._record(worker.rank) for worker in self.workers if worker not in lost]
        waits = [str(each) for each in records if each is not None and each.inside and gone & {*each.group}]
        return "".join(f"; {each}" for each in waits)

    def _killed(self) -> list[RankLink]:
        return [w for w in self.workers if (fate := w.fate()) is not None and "killed" in fate]

    def _cause(self, failures: dict[int, Failed]) -> RankLink | None:
        """A rank that failed for a reason of its own."""
        return next((self.workers[r] for r, f in failures.items() if f.family != "PeerError"), None)

    def _with_reason(self, first: RankLink, failures: dict[int, Failed]) -> RankLink | None:
        """A rank that says why it failed, `first` before others; else one that only says that another gave up."""
        found = [rank for rank in (first.rank, *failures) if rank in failures]
        found.sort(key=lambda rank: _GAVE_UP.match(failures[rank].message) is not None)
        return self.workers[found[0]] if found else None

    def _reads(self, worker: RankLink, failures: dict[int, Failed]) -> bool:
        """Whether it may still find something wrong with the files."""
        before = self.status.read(worker.rank).phase in (Phase.SPAWN, Phase.SETTINGS, Phase.LOAD)
        return before and worker.rank not in failures and worker.fate() is None

    def _collect(self, failures: dict[int, Failed]) -> None:
        """What other ranks had to say before they ended."""
        for worker in self.workers:
            if worker.rank in failures:
                continue
            try:
                frame = worker.waiting()
                message = None if frame is None else unpack_from_rank(frame)
            except (PeerError, TimeoutError):
                continue
            if isinstance(message, Failed):
                failures[worker.rank] = message

    def silent(self, waited_for: Sequence[int], limit_s: float, doing: str) -> PeerError:
        """The error for ranks that did not answer in time: names a suspended rank, and what every rank is doing."""
        self.rendezvous.refresh()
        stopped = [worker for worker in self.workers if worker.stopped()]
        late = self._not_come()
        busy = self._busy([worker for worker, _ in late] or [self.workers[rank] for rank in waited_for])
        doing_now = [self._doing(worker) for worker in self.workers]
        modules = self._modules({worker.rank for worker, _ in late} | {worker.rank for worker in stopped}, late)
        asked = ", ".join(str(self.workers[rank].number) for rank in waited_for)
        lines = [f"no answer to {doing} within {limit_s:g} s from rank {asked}"]
        lines += [f"{worker.where} pid {worker.pid} is suspended (SIGSTOP)" for worker in stopped]
        for worker, missed in late:
            module = modules.get(missed.rank)
            lines.append(
                f"{worker.where} has not come to {missed.kind.name.lower()}{f' of {module}' if module else ''} over"
                f" {missed.group}, call {missed.call}, where rank {missed.rank} waits"
            )
        death = Death.SUSPENDED if stopped else Death.BUSY if busy else Death.LATE
        return _caused(PeerError("; ".join(lines + doing_now)), death)

    def _busy(self, late: Sequence[RankLink]) -> bool:
        """Whether a late rank uses its processor."""
        before = [worker.cpu_s() for worker in late]
        time.sleep(BUSY_S)
        self.rendezvous.refresh()
        return any(worker.cpu_s() - then > BUSY_SHARE * BUSY_S for worker, then in zip(late, before, strict=True))

    def _modules(self, late: set[int], missed: Sequence[tuple[RankLink, RankRecord]]) -> dict[int, str]:
        """In which module's collective each rank waits for one that is late: the waits are ended, and waiting ranks say
        what failed. A replica's ranks start again anyway."""
        failures: dict[int, Failed] = {}
        for rank in late:
            self.rendezvous.mark_dead(rank)
        first = self.workers[0].number
        waiting = {record.rank - first for _, record in missed}
        deadline = time.monotonic() + DIAGNOSIS_S
        while not failures.keys() >= waiting and time.monotonic() < deadline:
            time.sleep(0.02)
            self._collect(failures)
        return {first + rank: failed.module for rank, failed in failures.items()}

    def _not_come(self) -> list[tuple[RankLink, RankRecord]]:
        """Ranks that are in no collective while others wait for them in one, and the record of one that waits."""
        records = [self._record(worker.rank) for worker in self.workers]
        inside = [record for record in records if record is not None and record.inside]
        waiting = {record.rank for record in inside}
        found = []
        for worker in self.workers:
            number = worker.number
            missed = next((r for r in inside if number in r.group and number not in waiting), None)
            if missed is not None:
                found.append((worker, missed))
        return found

    def _record(self, rank: int) -> RankRecord | None:
        """Of one rank, in the numbers of all replicas' ranks."""
        records = self.rendezvous.records()
        record = records[rank] if records else self.status.collective(rank, self.rendezvous.groups)
        if record is None or record.kind is CollectiveKind.NONE:
            return None
        first = self.workers[0].number
        return replace(record, rank=first + record.rank, group=tuple(first + each for each in record.group))

    def _last(self, rank: int) -> str:
        """The collective that `rank` was last in, for people."""
        record = self._record(rank)
        return "" if record is None else str(record)

    def _doing(self, worker: RankLink) -> str:
        last = self._last(worker.rank)
        return f"{worker.where} is in {self.status.read(worker.rank)}" + (f" ({last})" if last else "")

    def close(self) -> None:
        """Gives back what belongs to all ranks together; safe to call twice."""
        self.status.close()
        self.rendezvous.close()
