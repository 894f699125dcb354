"""The text worker's process: one job after the other, each with bounds that the system holds.

Run as `python -m weft.frontend.text_worker.process CONTROL_FD LIFELINE_FD PARENT_PID MEMORY_BYTES`. A job beyond its
processor time is ended with the process by SIGPROF, whatever it does; one beyond its memory sees every allocation fail.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator

import msgspec

from weft.base.errors import CheckpointError, RequestError
from weft.base.log import configure
from weft.base.machine.parent_death import tie_to_parent
from weft.base.machine.rlimits import lower
from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import (
    MORE_MEMORY,
    Begin,
    Job,
    JobAnswer,
    JobRefusal,
    Ready,
    named,
    pack,
    unpack_job,
)
from weft.runtime.ipc.channel import Channel, ChannelClosed

DEPTH = 400
"""Calls that a template may nest: one that calls itself without end is refused before the stack is full."""

STACK_BYTES = 8 << 20
"""A grammar that needs more ends this process: ranks, which compile it afterwards, have more."""
LOAD_S, LOAD_S_OF_MIB = 4.0, 0.5
"""Seconds of processor time for loading a tokenizer, and what each MiB of its file adds."""
LOAD_BYTES = 64
"""Bytes of memory for loading it, for each of its file's, beside what a job may take."""


def main(arguments: list[str]) -> int:
    """0 once the parent has closed the channel."""
    control_fd, lifeline_fd, parent_pid, memory = (int(word) for word in arguments)
    tie_to_parent(parent_pid, lifeline_fd, by_signal=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure()
    channel = Channel.of_fd(control_fd)
    try:
        frame = channel.receive()
        begin = msgspec.msgpack.decode(frame, type=Begin)
        size = len(frame) + _file_size(begin)
        _bound_memory(memory + LOAD_BYTES * size, for_good=False)
        signal.setitimer(signal.ITIMER_PROF, LOAD_S + LOAD_S_OF_MIB * size / (1 << 20))
        try:
            with _without_output():
                handler = Handler.begin(begin)
                handler.prepare()
        except CheckpointError as error:
            channel.send(pack(Ready(str(error))))
            return error.exit_code
        except MemoryError:
            channel.send(pack(Ready(f"checkpoint {begin.checkpoint.path}: its tokenizer takes {MORE_MEMORY}")))
            return 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        _bound_memory(memory)
        sys.setrecursionlimit(DEPTH + 100)
        channel.send(pack(Ready()))
        while True:
            answer = _answer(handler, channel.receive())
            channel.send(pack(answer))
            if answer.ends:
                return 1
    except ChannelClosed:
        return 0


def _answer(handler: Handler, frame: bytes) -> JobAnswer:
    try:
        job = unpack_job(frame)
    except (RecursionError, MemoryError, msgspec.DecodeError) as error:
        message = f"the request cannot be unpacked: {type(error).__name__}"
        return JobAnswer(refusal=JobRefusal(message, None, 400, "invalid_value"), ends=isinstance(error, MemoryError))
    return _done(handler, job)


def _done(handler: Handler, job: Job) -> JobAnswer:
    signal.setitimer(signal.ITIMER_PROF, job.cpu_s)
    try:
        return JobAnswer(pack(handler.do(job)))
    except RequestError as error:
        return JobAnswer(refusal=JobRefusal.of(error))
    except MemoryError:
        message = f"{named(job)} needs more memory than a request may take"
        return JobAnswer(refusal=JobRefusal(message, job.param, 400, "too_large"), ends=True)
    except RecursionError:
        return JobAnswer(refusal=JobRefusal(f"{named(job)} is nested too deeply", job.param, 400, "invalid_value"))
    except Exception as error:  # of a library: it ends this job, not those of others
        logging.getLogger(__name__).exception("a job failed")
        message = f"{named(job)} cannot be worked on: {type(error).__name__}"
        return JobAnswer(refusal=JobRefusal(message, job.param, 400, "invalid_value"))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """The library of tokenizers writes stacks of its faults to stderr, which all come back as errors, too."""
    sys.stderr.flush()
    own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)


def _file_size(begin: Begin) -> int:
    """Bytes of tokenizer.json."""
    source = begin.checkpoint.tokenizer
    try:
        return os.stat(source.json_path).st_size if source is not None and source.json_path is not None else 0
    except OSError:  # loading it says so
        return 0


def _bound_memory(more: int, *, for_good: bool = True) -> None:
    """From here on the process can have `more` bytes of address space than it has."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + more
    lower(resource.RLIMIT_AS, most, most if for_good else resource.RLIM_INFINITY)
    lower(resource.RLIMIT_CORE, 0, 0)
    lower(resource.RLIMIT_STACK, STACK_BYTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
