"""The small parts of recovery: delays, quarantine, streams that begin again, faults on purpose, a full disk."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from weft.base import env
from weft.base.errors import CheckpointError, ConfigError, PeerError, RequestError, WeftError
from weft.base.log import configure
from weft.base.machine.cores import assign_cores, available_cores, numa_node
from weft.base.step.sampling_params import SamplingParams
from weft.cli.view.say import say
from weft.engine.core.outputs import FinishReason, RequestOutput
from weft.frontend.server.http.listen import bind
from weft.frontend.server.http.port_owner import port_owner
from weft.frontend.serving.open_streams import OpenStreams
from weft.frontend.serving.recovery.quarantine import LIFTED_AFTER_S, MOST_QUARANTINED, Quarantine
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.stream import BegunAgain, Stream
from weft.runtime.worker.faults import Action, Fault, Faults, parse_faults

DEATH = PeerError("rank 1 was killed")


class Clock:
    """A time that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_delays_double_up_to_thirty_seconds() -> None:
    clock = Clock()
    recovery = Recovery(clock)
    delays = []
    for _ in range(8):
        clock.now += 20
        delays.append(recovery.delay(DEATH, 5.0))
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    clock.now += 100
    assert recovery.delay(DEATH, 80.0) == 1, "after a good minute from the beginning"


def test_five_deaths_in_a_minute_are_the_end() -> None:
    clock = Clock()
    recovery = Recovery(clock)
    for _ in range(4):
        recovery.delay(DEATH, 1.0)
        clock.now += 14.9
    with pytest.raises(PeerError, match="5 times within 60 s, so they are not .*: rank 1 was killed") as caught:
        recovery.delay(DEATH, 1.0)
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("error", [ConfigError("x"), CheckpointError("y")])
def test_what_cannot_get_better_is_not_tried_again(error: WeftError) -> None:
    with pytest.raises(type(error)):
        Recovery(Clock()).delay(error, 1.0)


def test_only_a_suspect_that_dies_alone_is_quarantined() -> None:
    quarantine = Quarantine(Clock())
    assert not quarantine.watches
    quarantine.died([b"a", b"b"])
    quarantine.died([])
    quarantine.died([b"b", b"c"])
    assert not any(digest in quarantine for digest in (b"a", b"b", b"c")), "two deaths in company"
    quarantine.died([b"b", b"b"])
    assert b"b" not in quarantine, "twice the same is company"
    quarantine.ended_well(b"c")
    quarantine.died([b"c"])
    assert b"c" not in quarantine, "it had ended well, so this is its first"
    quarantine.died([b"b"])
    assert b"b" in quarantine


def test_deaths_that_rows_cannot_cause_leave_no_suspicion() -> None:
    for _ in range(3):
        streams, stream = opened(whole=False)
        assert streams.lose(frozenset({"r-0"}), blamed=False) == [stream]
        assert streams.suspected_at(stream) is None and streams.quarantine() == []


def test_suspicion_and_quarantine_are_lifted() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    quarantine.died([b"a"])
    quarantine.died([b"a"])
    quarantine.died([b"b"])
    clock.now += LIFTED_AFTER_S - 1
    assert quarantine.lifted_in_s() == [1.0] and quarantine.suspected_at(b"b") == 0
    clock.now += 1
    assert not quarantine.watches and b"a" not in quarantine and quarantine.suspected_at(b"b") is None


def test_the_quarantine_is_bounded() -> None:
    quarantine = Quarantine(Clock())
    for number in range(2 * MOST_QUARANTINED):
        quarantine.died([b"%d" % number])
        quarantine.died([b"%d" % number])
    assert b"0" not in quarantine and b"%d" % (2 * MOST_QUARANTINED - 1) in quarantine
    assert len(quarantine._closed) == MOST_QUARANTINED


def record(stream: Stream, index: int = 0, finish: FinishReason | None = None) -> RequestOutput:
    return RequestOutput(request_id=stream.request_ids[0], index=index, new_token_ids=[1], finish_reason=finish)


def opened(*, whole: bool, n: int = 1) -> tuple[OpenStreams, Stream]:
    streams = OpenStreams()
    return streams, streams.add("r", [[1, 2]], SamplingParams(n=n), whole=whole)


def test_a_stream_that_nothing_was_taken_from_begins_again() -> None:
    streams, stream = opened(whole=False)
    streams.deliver([record(stream)])
    assert streams.lose(frozenset({"r-0"})) == [stream]
    assert not stream.arrived and stream.error is None
    streams.deliver([record(stream, finish=FinishReason.STOP)])
    assert len(asyncio.run(stream.next())) == 1 and streams.outputs == 0


def test_a_stream_that_something_was_taken_from_fails() -> None:
    streams, stream = opened(whole=False)
    streams.deliver([record(stream)])
    asyncio.run(stream.next())
    assert streams.lose(frozenset({"r-0"})) == []
    assert stream.error is not None and stream.error.code == "engine_restarted"


def test_a_whole_answer_begins_again_whatever_was_taken() -> None:
    streams, stream = opened(whole=True, n=2)
    streams.deliver([record(stream, 0, FinishReason.STOP), record(stream, 1)])
    asyncio.run(stream.next())
    assert streams.lose(frozenset({"r-0"})) == [stream] and stream.open_outputs == 2
    streams.deliver([record(stream)])
    with pytest.raises(BegunAgain):
        asyncio.run(stream.next())
    assert len(asyncio.run(stream.next())) == 1


def test_requests_that_die_together_run_again_as_often_as_it_takes() -> None:
    streams, stream = opened(whole=True)
    other = streams.add("s", [[9]], SamplingParams(), whole=True)
    for _ in range(3):
        assert streams.lose(frozenset({"r-0", "s-0"})) == [stream, other]
    assert streams.suspected_at(stream) == streams.suspected_at(other) == 0


def test_a_request_that_dies_alone_is_refused_from_then_on() -> None:
    streams, stream = opened(whole=True)
    for _ in range(2):
        streams.lose(frozenset({"r-0"}))
    assert stream.error is not None and stream.error.status == 422
    streams.discard(stream)
    with pytest.raises(RequestError) as caught:
        streams.add("r2", [[1, 2]], SamplingParams(), whole=False)
    assert caught.value.code == "request_quarantined"
    streams.add("r3", [[1, 3]], SamplingParams(), whole=False)


def test_a_request_that_is_refused_is_suspected_as_before() -> None:
    streams, stream = opened(whole=True)
    streams.lose(frozenset({"r-0"}))
    streams.fail("r-0", RequestError("too late"))
    streams.deliver([record(stream, finish=FinishReason.ABORT)])
    streams.fail("r-0", RequestError("too late"))
    assert streams.outputs == stream.open_outputs == 0
    streams.discard(stream)
    again = streams.add("s", [[1, 2]], SamplingParams(), whole=True)
    assert streams.suspected_at(again) == 0 and streams.outputs == 1
    streams.deliver([RequestOutput(request_id="s-0", index=0, new_token_ids=[1], finish_reason=FinishReason.STOP)])
    streams.discard(again)
    assert streams.suspected_at(again) is None and streams.outputs == 0


def test_a_whole_answer_that_two_deaths_interrupt_begins_again() -> None:
    """Before its reader has heard of the first one."""
    streams, stream = opened(whole=True)
    streams.deliver([record(stream)])
    asyncio.run(stream.next())
    for _ in range(2):
        assert streams.lose(frozenset()) == [stream]
    streams.deliver([record(stream)])
    with pytest.raises(BegunAgain):
        asyncio.run(stream.next())


def test_an_answer_that_a_stop_string_ended_is_suspected_no_more() -> None:
    """Its reader has gone before the engine says that it has ended the output."""
    streams, stream = opened(whole=True)
    streams.lose(frozenset({"r-0"}))
    streams.deliver([record(stream)])
    stream.answered = True
    streams.discard(stream)
    assert streams.suspected_at(stream) is None and streams.outputs == 0


def test_lines_of_a_restart_need_no_reader() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as out:
        say("rank 0 is started again", out, ignore_closed=True)
        with pytest.raises(BrokenPipeError):
            say("ready", out)
        say("", out, ignore_closed=True)  # lets go of what is left


def test_a_stream_whose_outputs_have_all_come_is_left_alone() -> None:
    streams, stream = opened(whole=False)
    streams.deliver([record(stream, finish=FinishReason.STOP)])
    assert streams.lose(frozenset()) == [] and stream.error is None and len(stream.arrived) == 1


def test_faults_are_inert_without_the_flag() -> None:
    assert env.faults({"WEFT_FAULT": "step:0:1:kill"}) == ""
    assert env.faults({"WEFT_FAULT": "step:0:1:kill", "WEFT_TEST_FAULTS": "0"}) == ""
    assert env.faults({"WEFT_FAULT": "step:0:1:kill", "WEFT_TEST_FAULTS": "1"}) == "step:0:1:kill"
    assert Faults().reach("step") is None


def test_faults_as_text() -> None:
    assert parse_faults("") == ()
    assert parse_faults("step:1:3:delay=0.5, collective:0:7:nan:every") == (
        Fault("step", 1, 3, Action.DELAY, 0.5),
        Fault("collective", 0, 7, Action.NAN, every=True),
    )
    for wrong in ("step:1:3", "stop:1:3:kill", "step:1:3:explode", "step:a:3:kill", "step:1:3:nan", "step:1:3:kill:x"):
        with pytest.raises(ConfigError, match="WEFT_FAULT"):
            parse_faults(wrong)


def test_a_fault_comes_at_its_time_and_in_the_first_set_only() -> None:
    faults = parse_faults("step:1:2:raise, collective:1:1:skip-collective:every")
    mine = Faults(faults, rank=1)
    assert mine.reach("step") is None and mine.reach("collective") is Action.SKIP
    with pytest.raises(RuntimeError, match="on purpose"):
        mine.reach("step")
    assert mine.reach("step") is None and mine.reach("collective") is None
    again = Faults(faults, rank=1, start=1)
    assert not again.at("step") and again.reach("collective") is Action.SKIP
    assert not Faults(faults, rank=0).at("collective")


def test_lines_on_a_full_disk_are_dropped() -> None:
    with open("/dev/full", "w") as full:
        say("one", full)
        say("two", full)
        assert os.fstat(full.fileno()).st_rdev == os.stat("/dev/full").st_rdev, "it is given back"


def test_lost_log_lines_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = logging.getLogger("weft.test")
    kept = logging.getLogger("weft").handlers[:]
    with open("/dev/full", "w", buffering=1) as full, open(tmp_path / "log", "w+") as good:
        monkeypatch.setattr("sys.stderr", full)
        configure()
        (handler,) = logging.getLogger("weft").handlers
        assert isinstance(handler, logging.StreamHandler)
        log.info("one")
        log.info("two")
        handler.stream = good
        log.info("three")
        log.info("four")
        logging.getLogger("weft").handlers[:] = kept
        good.seek(0)
        lines = good.read().splitlines()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), full.fileno())
    assert "three (2 lines before this one were late or lost)" in lines[0] and lines[1].endswith("four")


def test_cores_of_a_memory_node_are_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One package of two nodes, whose numbers take turns, two hardware threads a core."""
    for cpu in range(8):
        (tmp_path / f"cpu{cpu}" / f"node{cpu % 2}").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology").mkdir()
        (tmp_path / f"cpu{cpu}" / "topology" / "physical_package_id").write_text("0\n")
        (tmp_path / f"cpu{cpu}" / "topology" / "core_id").write_text(f"{cpu % 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    cores = available_cores(tmp_path)
    assert cores == ((0, 4), (2, 6), (1, 5), (3, 7))
    assert [numa_node(share.cpus, tmp_path) for share in assign_cores(cores, 2)] == [0, 1]


def test_the_memory_node_of_cpus(tmp_path: Path) -> None:
    for cpu, node in ((0, 0), (1, 0), (2, 1)):
        (tmp_path / f"cpu{cpu}" / f"node{node}").mkdir(parents=True)
    assert numa_node([0, 1], tmp_path) == 0 and numa_node([2], tmp_path) == 1
    assert numa_node([0, 2], tmp_path) is None and numa_node([], tmp_path) is None


def test_a_port_in_use_names_its_owner() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port_owner(port).startswith(f"pid {os.getpid()} (")
        with pytest.raises(ConfigError, match=rf"port {port} on 127.0.0.1 is in use by pid {os.getpid()} \(") as caught:
            bind("127.0.0.1", port)
        assert caught.value.exit_code == 78
    assert port_owner(port) == ""
