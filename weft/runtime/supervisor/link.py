"""RankLink: a rank's process as the supervisor sees it, whichever host it is on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from weft.base.errors import PeerError


class RankGoneError(PeerError):
    """The process of `link` has ended, or nothing comes from it any more."""

    def __init__(self, link: RankLink) -> None:
        super().__init__(f"{link.where} is gone")
        self.link = link


SendFrames = Callable[[Sequence[bytes], float], None]
"""Sends frames[r] to rank r, for some ranks, within seconds. TimeoutError, ChannelClosed as of `RankLink.send`."""


class RankLink(Protocol):
    """`rank`: among those that it shares collectives with; `number`: among those of all replicas; `where`: the latter
    and its coordinates, for people, and its host where there are several."""

    @property
    def rank(self) -> int: ...
    @property
    def where(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def pid(self) -> int:
        """On its host."""
        ...

    @property
    def lost_host(self) -> str:
        """What is known of its host where that is lost; else empty."""
        ...

    def fds(self) -> Sequence[int]:
        """To be polled; what is readable is there to be taken."""
        ...

    def take(self, fd: int, timeout_s: float) -> tuple[RankLink, bytes]:
        """A frame that has come over `fd`, and whose it is. RankGoneError, TimeoutError: a frame was begun and not
        ended."""
        ...

    def waiting(self) -> bytes | None:
        """A frame of this rank that is there already. PeerError, TimeoutError: it cannot be read."""
        ...

    def send(self, frame: bytes, timeout_s: float) -> None:
        """TimeoutError: the other end does not read; ChannelClosed: it is gone."""
        ...

    def sender(self) -> tuple[object, SendFrames]:
        """What sends its own of the frames of all ranks to this rank, and to all others that have the same key."""
        ...

    def exit_code(self) -> int | None:
        """As of `subprocess`; None while it lives, and where that is not known."""
        ...

    def fate(self) -> str | None:
        """How it ended, in words; None while it lives."""
        ...

    def stopped(self) -> bool:
        """Whether it is suspended (SIGSTOP)."""
        ...

    def out_of_memory(self) -> bool:
        """Whether SIGKILL ended it and the system counted out-of-memory kills since it started."""
        ...

    def cpu_s(self) -> float:
        """Seconds of processor time so far; of a rank on another host, when its agent last reported."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended by then."""
        ...

    def kill(self) -> None:
        """Ends it at once, from any thread."""
        ...

    def release(self) -> None:
        """Waits for its end and gives everything back; safe to call twice."""
        ...


def end_all(links: Sequence[RankLink], grace_s: float = 0.0) -> None:
    """Waits up to `grace_s` for them to end, kills the rest, reaps all. Safe to call twice."""
    deadline = time.monotonic() + grace_s
    for link in links:
        if not link.wait(max(0.0, deadline - time.monotonic())):
            break
    for link in links:
        link.kill()
    for link in links:
        link.release()


def senders(links: Sequence[RankLink]) -> list[tuple[RankLink, SendFrames]]:
    """What sends each of `links` its frame: each with the first of the ranks that it reaches."""
    found: dict[object, tuple[RankLink, SendFrames]] = {}
    for link in links:
        key, send = link.sender()
        found.setdefault(key, (link, send))
    return list(found.values())


def fate_of(code: int) -> str:
    """'was killed by SIGKILL', 'ended with exit code 70'."""
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
