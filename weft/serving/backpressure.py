"""Pauses and resumes streams whose reader takes nothing for a while."""

from __future__ import annotations

from operator import methodcaller

from weft.serving.replicas import Replicas
from weft.serving.stream import Stream


def pause(engines: Replicas, stream: Stream) -> None:
    """Its reader takes nothing: what runs of it gives its slots and blocks to others until `resume`."""
    for request_id in stream.request_ids:
        engines.tell(stream, methodcaller("pause", request_id))


def resume(engines: Replicas, stream: Stream) -> None:
    """Its reader takes something again."""
    for request_id in stream.request_ids:
        engines.tell(stream, methodcaller("resume", request_id))
