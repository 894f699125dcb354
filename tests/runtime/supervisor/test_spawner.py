"""Worker processes that are started before it is known what for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.fake_group import fake_plan
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import alive, children, until, wait_gone
from weft.base.errors import CheckpointError, PeerError
from weft.cli import main as cli
from weft.runtime.ipc.channel import Channel, ChannelClosed, channel_pair
from weft.runtime.ipc.messages import PeerAddresses
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.setups import setup_of
from weft.runtime.supervisor.start import Starting

FAKE = (sys.executable, "-m", "tests.support.fakes.fake_rank", "good")


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    made = Spawner(FAKE)
    yield made
    made.close()


def own_children() -> list[int]:
    return children(os.getpid())


def test_what_is_started_ahead_becomes_the_first_rank(tmp_path: Path, spawner: Spawner) -> None:
    before = own_children()
    spawner.start_ahead()
    (ahead,) = set(own_children()) - set(before)
    executor = Starting(fake_plan(write_tiny_chat(tmp_path), ProcessLimits()), None, spawner).wait()
    pids = [worker.pid for worker in executor.workers]
    assert pids[0] == ahead and len(set(pids)) == 2
    executor.close()
    again = Starting(fake_plan(tmp_path, ProcessLimits()), None, spawner).wait()
    assert ahead not in [worker.pid for worker in again.workers]
    again.close()


def test_several_become_the_first_ranks_in_order(tmp_path: Path, spawner: Spawner) -> None:
    spawner.start_ahead()
    first = set(own_children())
    spawner.start_ahead(2)
    ahead = own_children()
    assert len(ahead) == len(first) + 1, "one waited already"
    executor = Starting(fake_plan(write_tiny_chat(tmp_path), ProcessLimits()), None, spawner).wait()
    assert executor.workers[0].pid in first and executor.workers[1].pid in set(ahead) - first
    assert {*own_children()} <= {*ahead}
    executor.close()


def test_what_nobody_takes_is_ended(spawner: Spawner) -> None:
    before = own_children()
    spawner.start_ahead(3)
    ahead = set(own_children()) - set(before)
    assert len(ahead) == 3
    spawner.close()
    wait_gone(ahead)
    spawner.close()


def test_one_that_died_is_replaced(tmp_path: Path, spawner: Spawner) -> None:
    before = own_children()
    spawner.start_ahead()
    (ahead,) = set(own_children()) - set(before)
    os.kill(ahead, signal.SIGKILL)
    until(lambda: not alive(ahead), "the end of the process")
    executor = Starting(fake_plan(write_tiny_chat(tmp_path), ProcessLimits()), None, spawner).wait()
    assert ahead not in [worker.pid for worker in executor.workers]
    executor.close()


def test_none_is_started_ahead_where_none_can_be(tmp_path: Path) -> None:
    spawner = Spawner((str(tmp_path / "nothing"),))
    spawner.start_ahead()
    with pytest.raises(FileNotFoundError):
        spawner.spawn(0, "rank 0", status_fd=0)
    spawner.close()


def test_a_command_that_is_refused_leaves_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = own_children()
    assert cli.main(["serve", str(tmp_path / "nothing")]) == CheckpointError.exit_code
    assert "nothing" in capsys.readouterr().err
    assert {*own_children()} <= {*before}


def test_a_command_tells_its_rank_what_it_chose_after_it_had_started_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spawner: Spawner
) -> None:
    spawner.start_ahead()
    monkeypatch.setenv("WEFT_LOG", "debug")
    monkeypatch.setenv("UNKNOWN", "1")
    monkeypatch.setenv("WEFT_DIST_SECRET", "of hosts")
    starting = Starting(fake_plan(write_tiny_chat(tmp_path), ProcessLimits(), ranks=1), None, spawner)
    try:
        share, world = starting.plan.cores[0], starting._world_setup()
        environ = setup_of(world, 0, share, b"", PeerAddresses()).environ
        assert environ["WEFT_LOG"] == "debug" and not {"UNKNOWN", "WEFT_DIST_SECRET"} & {*environ}
    finally:
        starting.close()


def test_descriptors_are_handed_over_before_frames() -> None:
    ours, theirs = channel_pair()
    other, (read_end, write_end) = Channel(theirs), os.pipe()
    ours.send_fds((read_end, write_end))
    ours.send(b"frame")
    first, second = other.receive_fds()
    assert {first, second}.isdisjoint((read_end, write_end)) and not os.get_inheritable(first)
    assert other.receive() == b"frame"
    os.write(second, b"x")
    assert os.read(read_end, 1) == b"x"
    for fd in (first, second, read_end, write_end):
        os.close(fd)
    ours.send(b"no descriptors")
    with pytest.raises(PeerError, match="expected descriptors"):
        other.receive_fds()
    ours.close()
    other.close()


def test_descriptors_from_nobody() -> None:
    ours, theirs = channel_pair()
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.receive_fds()
    with pytest.raises(ChannelClosed):
        ours.send_fds((0,))
    ours.close()
