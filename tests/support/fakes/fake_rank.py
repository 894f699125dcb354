"""A rank without torch: speaks the supervisor's messages and samples letters. Its first argument says how it fails.

"once-...": only in the first set of ranks; "replica1-...": only that replica's; "slow-...": six times slower."""

from __future__ import annotations

import os
import signal
import sys
import time

from msgspec.structs import replace

from weft.base.errors import CheckpointError
from weft.base.machine.parent_death import tie_to_parent
from weft.base.step.plan import GroupResult, Sampled
from weft.parallel.layout.ranks import coords
from weft.runtime.ipc.channel import Channel
from weft.runtime.ipc.fingerprint import joined
from weft.runtime.ipc.messages import (
    Allocate,
    Entered,
    Loaded,
    RunStep,
    Setup,
    Shutdown,
    StepDone,
    failure_of,
    pack,
    unpack_for_rank,
)
from weft.runtime.ipc.phases import Phase
from weft.runtime.ipc.status import StatusPage

POISON = 99
"""A token id that the behaviour "poison-crash" dies of."""
LETTERS = 65
"""Token of slot s's p-th output: LETTERS + (s + p) % 26."""


def main(behaviour: str, words: list[str]) -> None:
    control, lifeline, parent, by_signal = map(int, words)
    tie_to_parent(parent, lifeline, by_signal=bool(by_signal))
    channel = Channel.of_fd(control)
    status_fd, *_ = channel.receive_fds()
    setup = unpack_for_rank(channel.receive())
    assert isinstance(setup, Setup)
    last = setup.rank == setup.world.layout.world - 1
    step_s = 0.03 if behaviour.startswith("slow-") else 0.005
    behaviour = behaviour.removeprefix("slow-")
    if behaviour.startswith("replica"):
        whose, _, behaviour = behaviour.partition("-")
        last = last and int(whose.removeprefix("replica")) * setup.world.layout.world == setup.world.first_rank
    status = StatusPage(status_fd, setup.world.layout.world).writer(setup.rank)

    def enter(phase: Phase) -> None:
        status.phase(phase)
        channel.send(pack(Entered(phase)))

    enter(Phase.SETTINGS)
    said = joined(setup)
    if last and (behaviour == "other-torch" or behaviour == "other-torch-later" and setup.world.start):
        said = replace(said, settings=said.settings | {"torch": "1.0", "checkpoint": "feed"})
    if last and behaviour == "other-world":
        said = replace(said, world=3)
    if last and behaviour == "other-rank":
        said = replace(said, rank=0)
    for _ in range(2 if last and behaviour == "joins-twice" else 1):
        channel.send(pack(said))
    enter(Phase.LOAD)
    if last and behaviour == "bad-weights":
        channel.send(
            pack(failure_of(CheckpointError("checkpoint x: 1 problem", ["a.safetensors: t: wanted 1, got 2"])))
        )
        sys.exit(65)
    if last and (behaviour == "stuck-loading" or behaviour == "stuck-restarting" and setup.world.start):
        time.sleep(600)
    if last and behaviour == "late-restarting" and setup.world.start:
        time.sleep(3)  # so that what happens between two sets of ranks can be seen
    if last and behaviour == "killed-loading":
        os.kill(os.getpid(), signal.SIGKILL)
    channel.send(pack(Loaded(123)))
    enter(Phase.GROUPS)
    assert isinstance(unpack_for_rank(channel.receive()), Allocate)
    for phase in (Phase.CACHE, Phase.WARM_UP, Phase.READY):
        enter(phase)
    at, number = coords(setup.world.layout, setup.rank), 0
    while isinstance(message := unpack_for_rank(channel.receive()), RunStep):
        number += 1
        status.step(number, busy=True)
        # "once-...": only the first set of ranks misbehaves
        if last and not (behaviour.startswith("once-") and setup.world.start):
            misbehave(behaviour.removeprefix("once-"), number, channel)
        if behaviour == "poison-crash" and at.tp == 0 and any(POISON in run.ids for run in message.plan.group.runs):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(step_s)
        group = message.plan.group
        runs = [run for run in group.every_run() if run.sample]
        status.step(number, busy=False)
        if at.tp == 0:
            sampled = [Sampled(run.slot, LETTERS + (run.slot + run.output_pos) % 26) for run in runs]
            channel.send(pack(StepDone(message.plan.index, GroupResult.of(group, sampled))))
    assert isinstance(message, Shutdown)


def misbehave(behaviour: str, step: int, channel: Channel) -> None:
    if step < 3:
        return
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[behaviour])
    elif behaviour == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif behaviour == "slow":
        time.sleep(0.05)
    elif behaviour == "garbage":
        channel.send(b"\xc1 this is no message")
    elif behaviour == "raises":
        channel.send(pack(failure_of(ZeroDivisionError("division by zero"))))
        sys.exit(70)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
