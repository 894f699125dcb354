"""Texts: what does text jobs, and the member of that seam that has no process."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import Job, too_deep


class Texts(Protocol):
    """What does text jobs."""

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """The job's result to be. `connection`: whose job it is; None: the server's own. RequestError through the
        future: it is refused, passed a bound, or the worker cannot be started (503)."""

    def close(self) -> None:
        """Ends what runs; safe to call twice."""


class LocalTexts:
    """Does jobs at once, in the caller's thread, without bounds: for tests, and a served model without a worker."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def submit(self, job: Job, connection: object = None) -> Future[Any]:
        """See `Texts`."""
        done: Future[Any] = Future()
        try:
            if (error := too_deep(job)) is not None:
                raise error
            done.set_result(self._handler.do(job))
        except Exception as error:  # the future raises it again
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Nothing runs."""
