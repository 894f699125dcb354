"""Two text workers: one for the jobs of most requests, and one for long texts, which take seconds."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from weft.frontend.text_worker.client import TextWorker
from weft.frontend.text_worker.jobs import LONG_TEXT, Begin, Job

NICE = 10
"""Of the process that does long jobs: ranks and the server come first where there are fewer cores than work."""


class TextWorkers:
    """A job that is long waits for long ones only, and another one for short ones only. The second process is started
    with the first long job."""

    def __init__(self, begin: Begin) -> None:
        self._begin, self._lock, self._closed = begin, threading.Lock(), False
        self._short = TextWorker(begin)
        self._long: TextWorker | None = None

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """See `Texts`."""
        return self._of(job).submit(job, connection)

    def _of(self, job: Job) -> TextWorker:
        if (job.size or 0) <= LONG_TEXT:
            return self._short
        with self._lock:
            if self._long is None and not self._closed:
                self._long = TextWorker(self._begin, nice=NICE)
            return self._long or self._short

    def close(self) -> None:
        """See `Texts`."""
        with self._lock:
            self._closed = True
        for worker in (self._short, self._long):
            if worker is not None:
                worker.close()
