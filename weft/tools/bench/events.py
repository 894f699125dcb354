"""Server-sent events out of raw bytes: the data of each event as it completes."""

from __future__ import annotations


class EventReader:
    """Feed it what arrives, in any pieces; fields other than data are passed over, as are comments."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that `piece` completes; lines of one event's data are joined by newlines."""
        self._rest += piece
        if b"\r" in self._rest:
            # A lone CR at the end may be the first half of CRLF: it waits for the next piece.
            held = self._rest.endswith(b"\r")
            body = self._rest[:-1] if held else self._rest
            self._rest = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + (b"\r" if held else b"")
        *whole, self._rest = self._rest.split(b"\n\n")
        return [data for event in whole if (data := _data(event)) is not None]

    @property
    def rest(self) -> bytes:
        """What stands after the last complete event."""
        return self._rest


def _data(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
