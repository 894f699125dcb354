"""Pauses and resumes streams whose reader takes too little for a while."""

from __future__ import annotations

from operator import methodcaller

from weft.frontend.serving.replicas import Replicas
from weft.frontend.serving.stream import Stream


class Backpressure:
    """Of one stream. What runs of it gives its slots and blocks to others while it is paused."""

    def __init__(self, engines: Replicas, stream: Stream) -> None:
        self._engines, self._stream = engines, stream
        self._paused = False

    def pause(self) -> None:
        """Its reader takes too little; a second call does nothing."""
        self._switch("pause", to=True)

    def resume(self) -> None:
        """Its reader has taken what there was; nothing where it is not paused."""
        self._switch("resume", to=False)

    def _switch(self, command: str, *, to: bool) -> None:
        if self._paused is not to:
            self._paused = to
            for request_id in self._stream.request_ids:
                self._engines.tell(self._stream, methodcaller(command, request_id))
