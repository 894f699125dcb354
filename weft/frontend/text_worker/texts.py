"""Texts: what does text jobs, and the member of that seam that does short ones before a process is asked."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import Job, too_deep

SHORT = 4096
"""Characters or ids of a job that is done at once: about 2 ms. A process takes half a millisecond more."""


class Texts(Protocol):
    """What does text jobs."""

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """The job's result to be. `connection`: whose job it is; None: the server's own. RequestError through the
        future: it is refused, passed a bound, or the worker cannot be started (503)."""

    def close(self) -> None:
        """Ends what runs; safe to call twice."""


class LocalTexts:
    """Does jobs at once, in the caller's thread: short ones, and without a `worker` all, without bounds."""

    def __init__(self, handler: Handler, worker: Texts | None = None) -> None:
        self._handler, self._worker = handler, worker

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """See `Texts`."""
        if self._worker is not None and (job.size is None or job.size > SHORT):
            return self._worker.submit(job, connection)
        done: Future[Any] = Future()
        try:
            if (error := too_deep(job)) is not None:
                raise error
            done.set_result(self._handler.do(job))
        except Exception as error:  # the future raises it again
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Nothing runs here; the worker is its owner's."""
