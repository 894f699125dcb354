"""Messages from rank to rank: every backend hands them over in order, and a sender waits only where a mailbox is
full."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import torch
from torch import Tensor

from weft.base.errors import DeadlockError, PeerError
from weft.compute.comm.backend import Backend, CommSpec, RankEnd
from weft.compute.comm.base import Comm
from weft.compute.comm.distributed.backend import Gloo
from weft.compute.comm.lockstep import LockstepComm, LockstepWorld
from weft.compute.comm.mailboxes import Mailboxes
from weft.compute.comm.shm.backend import SharedMemory
from weft.compute.comm.shm.region import Region, State, read_records
from weft.compute.comm.shm.shared_memory import SharedMemoryComm

PAIR = (0, 1)
BOXES = 3
ROOM = 4096
MAIL = Mailboxes(BOXES, {(0, 1): ROOM, (1, 0): ROOM})
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def ends(backend: Backend, limit_s: float = 120.0) -> Iterator[Comm]:
    meeting = backend.meet(CommSpec(2, (PAIR,), mailboxes=MAIL))
    try:
        with ThreadPoolExecutor(2) as threads:
            yield from threads.map(
                lambda rank: backend.make(RankEnd(rank, 2, (PAIR,), meeting.fds(rank), limit_s)), range(2)
            )
    finally:
        meeting.close()


def drawn(seed: int, count: int) -> list[Tensor]:
    draw, random = torch.Generator().manual_seed(seed), Random(seed)
    shapes = [(random.randrange(1, 9), random.randrange(1, 50)) for _ in range(count)]
    return [torch.randn(shape, generator=draw).to(random.choice(DTYPES)) for shape in shapes]


@pytest.mark.parametrize("backend", [SharedMemory(), Gloo()], ids=lambda backend: backend.name)
def test_messages_arrive_in_order(backend: Backend) -> None:
    """Both ways at once, more of them than boxes."""
    there, back = drawn(1, 60), drawn(2, 60)
    zero, one = ends(backend)

    def run(comm: Comm, own: list[Tensor], others: list[Tensor], peer: int) -> None:
        random = Random(peer)
        sent = taken = 0
        while taken < len(others):
            ahead = sent - taken
            if sent < len(own) and ahead < BOXES and (ahead <= 0 or random.random() < 0.5):
                x = own[sent].clone()
                comm.send(x, peer)
                x.zero_()  # it has been taken
                sent += 1
            elif sent > taken or sent == len(own):
                out = torch.empty_like(others[taken])
                comm.recv(out, peer)
                assert torch.equal(out, others[taken])
                taken += 1

    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(run, zero, there, back, 1), threads.submit(run, one, back, there, 0)]
        for each in done:
            each.result(120)
    zero.close()
    one.close()


def test_a_sender_waits_only_where_the_mailbox_is_full() -> None:
    zero, one = ends(SharedMemory())
    for number in range(BOXES):
        zero.send(torch.full((4,), float(number)), 1)
    more = threading.Thread(target=zero.send, args=(torch.full((4,), 9.0), 1))
    more.start()
    time.sleep(0.1)
    assert more.is_alive()
    for wanted in (0.0, 1.0, 2.0, 9.0):
        out = torch.empty(4)
        one.recv(out, 0)
        assert out.tolist() == [wanted] * 4
    more.join(60)
    assert not more.is_alive()


@pytest.mark.parametrize(
    "wrong",
    [torch.empty(5), torch.empty(4, dtype=torch.bfloat16), torch.empty(2, 4)],
    ids=["longer", "another type", "another shape"],
)
def test_another_size_is_an_error_of_both(wrong: Tensor) -> None:
    zero, one = ends(SharedMemory())
    zero.send(torch.zeros(4), 1)
    with pytest.raises(PeerError, match=r"ranks 1 and 0 disagree over \(0, 1\)"):
        one.recv(wrong, 0)


def test_a_message_larger_than_a_box_is_refused() -> None:
    zero, _ = ends(SharedMemory())
    with pytest.raises(PeerError, match="disagree"):
        zero.send(torch.zeros(ROOM), 1)


def test_a_dead_sender_ends_the_wait() -> None:
    backend = SharedMemory()
    meeting = backend.meet(CommSpec(2, (PAIR,), mailboxes=MAIL))
    one = backend.make(RankEnd(1, 2, (PAIR,), meeting.fds(1), 120.0))
    threading.Timer(0.2, meeting.mark_dead, (0,)).start()
    with pytest.raises(PeerError, match=r"rank 0 died; rank 1 was in recv over \(0, 1\)"):
        one.recv(torch.empty(4), 0)
    meeting.close()


def test_a_silent_sender_is_named() -> None:
    backend = SharedMemory()
    meeting = backend.meet(CommSpec(2, (PAIR,), mailboxes=MAIL))
    one = backend.make(RankEnd(1, 2, (PAIR,), meeting.fds(1), 0.3))
    with pytest.raises(PeerError, match=r"rank 0 did not come within 0.3 s; rank 1 was in recv over \(0, 1\)"):
        one.recv(torch.empty(4), 0)
    assert isinstance(one, SharedMemoryComm)
    (record,) = [each for each in read_records(meeting.fds(1)[0]) if each.rank == 1]
    assert record.state is State.GAVE_UP and str(record).startswith("rank 1 has been for")
    meeting.close()


def lockstep(*fns: Callable[[LockstepComm], object]) -> list[object]:
    return LockstepWorld(2, [PAIR], boxes=2).run(list(fns))


def send_three(comm: LockstepComm) -> None:
    for _ in range(3):
        comm.send(torch.zeros(1), 1)


def test_lockstep_says_which_rank_waits() -> None:
    with pytest.raises(DeadlockError, match="rank 1 waits in recv for a message of rank 0; rank 0 ended"):
        lockstep(lambda comm: None, lambda comm: comm.recv(torch.empty(1), 0))
    with pytest.raises(DeadlockError, match="rank 0 waits in send: rank 1 has not taken 2 messages; rank 1 ended"):
        lockstep(send_three, lambda comm: None)


def test_lockstep_refuses_another_shape() -> None:
    with pytest.raises(PeerError, match=r"ranks 0 and 1 disagree over a message: sent \(float32 \[2\]\), expected"):
        lockstep(lambda comm: comm.send(torch.zeros(2), 1), lambda comm: comm.recv(torch.empty(3), 0))


def on_two_hosts(limit_s: float = 120.0) -> tuple[SharedMemoryComm, SharedMemoryComm]:
    """Two ranks whose hosts share no memory: a region each, and a connection."""
    regions = [Region.create(2, (PAIR,), host_of=[0, 1], host=host, mailboxes=MAIL) for host in PAIR]
    sockets = socket.socketpair()
    comms = [SharedMemoryComm(region, rank, timeout=limit_s) for rank, region in enumerate(regions)]
    for rank, comm in enumerate(comms):
        tune_pair(sockets[rank])
        comm.connect({1 - rank: sockets[rank]}, [0, 1])
        regions[rank].close()
    return comms[0], comms[1]


def tune_pair(sock: socket.socket) -> None:
    """Small buffers, so that a message does not fit into them."""
    sock.setblocking(False)
    for name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, name, 2048)


def test_between_hosts_messages_come_while_the_receiver_computes() -> None:
    """As many as there are boxes, each larger than what sockets hold; one more waits."""
    zero, one = on_two_hosts()
    sent = [torch.randn(ROOM // 4) for _ in range(BOXES + 4)]

    def send_all(some: list[Tensor]) -> None:
        for x in some:
            zero.send(x, 1)

    send_all(sent[:BOXES])
    more = threading.Thread(target=send_all, args=(sent[BOXES:],))
    more.start()
    for x in sent:
        out = torch.empty_like(x)
        one.recv(out, 0)
        assert torch.equal(out, x)
    more.join(60)
    back = torch.randn(3)
    one.send(back, 0)
    out = torch.empty(3)
    zero.recv(out, 1)
    assert torch.equal(out, back)
    zero.close()
    one.close()


def test_a_host_that_is_gone_ends_the_wait() -> None:
    zero, one = on_two_hosts()
    threading.Timer(0.2, zero.close).start()
    with pytest.raises(PeerError, match=r"rank 0 has closed its end; rank 1 was in recv over \(0, 1\)"):
        one.recv(torch.empty(4), 0)
    one.close()


def test_a_host_that_is_gone_ends_a_send() -> None:
    zero, one = on_two_hosts()
    one.close()
    with pytest.raises(PeerError, match=r"rank 1 has closed its end; rank 0 was in send over \(0, 1\)"):
        for _ in range(100):
            zero.send(torch.zeros(ROOM // 4), 1)
    zero.close()


def test_a_receiver_of_another_host_that_takes_nothing_is_named() -> None:
    """Its mailbox is full, and what its host's system holds; both ends can still be closed."""
    zero, one = on_two_hosts(0.3)
    with pytest.raises(PeerError, match=r"rank 1 did not come within 0.3 s; rank 0 was in send over \(0, 1\)"):
        for _ in range(100):
            zero.send(torch.zeros(ROOM // 4), 1)
    began = time.monotonic()
    one.close()
    zero.close()
    assert time.monotonic() - began < 5


def test_a_rank_of_another_host_that_fails_says_so() -> None:
    zero, one = on_two_hosts()
    one.send(torch.zeros(2), 0)
    with pytest.raises(PeerError, match="disagree"):
        zero.recv(torch.empty(3), 1)
    with pytest.raises(PeerError, match="rank 0 gave up after an error of its own; rank 1 was in recv"):
        one.recv(torch.empty(4), 0)
    zero.close()
    one.close()


def test_a_rank_without_messages_of_other_hosts_sleeps() -> None:
    zero, one = on_two_hosts()
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.2
    zero.close()
    one.close()
