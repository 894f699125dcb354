"""Channel: length-prefixed frames over one end of an inherited Unix socket pair, or of a connection between hosts.

Knows bytes, not what they mean.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

from weft.base.errors import PeerError

MAX_FRAME = 64 * 1024 * 1024
"""Bytes. 64 prompts of 128k token ids fit; anything longer is a fault, not a message."""

MOST_FDS = 8
"""Descriptors that are handed over together."""

_HAND_OVER = b"\xfd"

_HEADER = struct.Struct("<I")


class ChannelClosed(PeerError):
    """The other end is gone."""


class Channel:
    """Whole frames in, whole frames out; one thread per direction."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(True)

    @classmethod
    def of_fd(cls, fd: int) -> Channel:
        """Takes ownership of an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def send(self, frame: bytes, timeout_s: float | None = None) -> None:
        """Writes one frame. TimeoutError: the other end does not read; ChannelClosed: it is gone."""
        if len(frame) > MAX_FRAME:
            raise PeerError(f"message of {len(frame)} bytes is longer than the largest frame, {MAX_FRAME} bytes")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        left, flags = memoryview(_HEADER.pack(len(frame)) + frame), _flags(deadline)
        while left:
            try:
                left = left[self._sock.send(left, flags) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise ChannelClosed("the other end of the channel is gone") from error

    def readable(self) -> bool:
        """Whether there is something to receive, or the other end is gone. By poll: select takes no descriptor beyond
        1,023, as a server with many connections has."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Reads one frame; without a `timeout_s` only the other end's end ends the wait."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _HEADER.unpack(self._exactly(_HEADER.size, deadline))
        if length > MAX_FRAME:
            raise PeerError(f"frame of {length} bytes is longer than the largest, {MAX_FRAME} bytes")
        return self._exactly(length, deadline)

    def send_fds(self, fds: Sequence[int]) -> None:
        """Hands over at most MOST_FDS descriptors; the other end asks for them before the next frame. ChannelClosed: it
        is gone."""
        try:
            socket.send_fds(self._sock, [_HAND_OVER], fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the other end of the channel is gone") from error

    def receive_fds(self) -> list[int]:
        """Those of the other end's `send_fds`, which are the caller's from here on; waits for them."""
        data, fds, _, _ = socket.recv_fds(self._sock, len(_HAND_OVER), MOST_FDS)
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            raise ChannelClosed("the other end of the channel is gone")
        if data != _HAND_OVER or not fds:
            raise PeerError("expected descriptors, got something else")
        return fds

    def _exactly(self, size: int, deadline: float | None) -> bytes:
        buffer = bytearray(size)
        view, flags = memoryview(buffer), _flags(deadline)
        done = 0
        while done < size:
            try:
                count = self._sock.recv_into(view[done:], 0, flags)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except OSError:  # reset, or a connection between hosts that has ended
                count = 0
            if not count:
                raise ChannelClosed("the other end of the channel is gone")
            done += count
        return bytes(buffer)

    def _wait(self, event: int, deadline: float | None) -> None:
        """Until the socket may be ready for more; TimeoutError at the deadline."""
        poll = select.poll()
        poll.register(self._sock, event)
        left_s = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not poll.poll(1000 * left_s):
            raise TimeoutError("timed out")

    def shut(self) -> None:
        """Ends the connection, from any thread; both ends' waits end. The descriptor stays until `close`."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Safe to call twice."""
        self._sock.close()


def _flags(deadline: float | None) -> int:
    """The socket itself always waits: to change that would be a call of the system for every frame."""
    return 0 if deadline is None else socket.MSG_DONTWAIT


def channel_pair() -> tuple[Channel, socket.socket]:
    """The parent's channel and the child's end (inheritable only through pass_fds)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(ours), theirs
