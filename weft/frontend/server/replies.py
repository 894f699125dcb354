"""Replies: a stream of engine records as one body or as server-sent events. Watches for the client to leave.

What is sent is the matter of an API's `ReplyForm`. A stream of events ends in one of two ways: with all that the form
has to send; or with an error frame, and the connection is closed without the end that HTTP has for a whole body.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from weft.base.errors import RequestError
from weft.engine.core.choice import Choice, ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.errors import CLIENT_GONE, client_gone, shown_error
from weft.frontend.server.http.connection import abort, chunk_writer
from weft.frontend.server.metrics.metrics import Metrics, RequestTimes
from weft.frontend.serving.backpressure import Backpressure
from weft.frontend.serving.errors import deadline_exceeded
from weft.frontend.serving.queue_timeout import expire
from weft.frontend.serving.replicas import Replicas
from weft.frontend.serving.stream import BegunAgain, Stream

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

HEAD_AFTER_S = 0.25
"""A stream of events waits so long for its first token: what fails until then has a status of its own."""
PAUSE_AFTER_S = 0.05
"""A client that leaves the connection full for so long pauses its stream; what comes meanwhile is kept."""
UNREAD_S = 30.0
"""A client that reads nothing for so long is cut off."""


def json_response(record: object) -> Response:
    """A record as a body."""
    return Response(msgspec.json.encode(record), media_type="application/json")


class ReplyForm(Protocol):
    """How an API writes one answer. It may keep what it has written of it."""

    def whole(self, answer: Answer) -> bytes:
        """The body of an answer that has ended; all of it is in `answer.pieces`."""

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """Frames before the first piece. `arrived`: records that are there already, and are taken next."""

    def frames(self, answer: Answer, index: int, piece: ChoiceDelta) -> bytes:
        """What a piece of a choice adds; nothing where it has nothing for the client."""

    def ending(self, answer: Answer) -> bytes:
        """Frames after the last piece."""

    def refusal(self, error: RequestError) -> Response:
        """Instead of an answer."""

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The frame that ends a stream with an error; nothing may follow it."""


@dataclass(slots=True)
class Answer:
    """One request on its way: where its records come from and what becomes of them."""

    id: str
    created: int
    model: str
    stream: Stream
    choices: list[Choice]
    form: ReplyForm
    metrics: Metrics
    patience_s: float
    """How long it may wait for its first step."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the response, beside its kind's own."""
    pieces: list[list[ChoiceDelta]] = field(init=False)
    watch: RequestTimes = field(init=False)

    def __post_init__(self) -> None:
        self.pieces = [[] for _ in self.choices]
        self.watch = self.metrics.begin(self.stream)

    def begin_again(self) -> None:
        """Forgets what has come."""
        self.choices = [choice.anew() for choice in self.choices]
        self.watch.again()
        self.pieces = [[] for _ in self.choices]

    @property
    def done(self) -> bool:
        """Every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def take(
        self, engines: Replicas, arrived: Sequence[tuple[int, RequestOutput]]
    ) -> Iterator[tuple[int, ChoiceDelta]]:
        """(choice, what is new in it); a choice whose text holds a stop string is ended in the engine."""
        records: dict[int, list[RequestOutput]] = {}
        for index, output in arrived:
            records.setdefault(index, []).append(output)
        for index, mine in records.items():
            choice = self.choices[index]
            piece = choice.add(mine)
            if piece is None:
                continue
            self.watch.tokens(index, sum([len(record.new_token_ids) for record in mine]), mine[0].queued_s)
            if piece.finish_reason is not None:
                self._ended(index, choice, piece.finish_reason)
            if choice.stopped_by is not None and mine[-1].finish_reason is None:
                engines.stop_output(self.stream, index, choice.stopped_by)
            yield index, piece

    def _ended(self, index: int, choice: Choice, reason: str) -> None:
        self.watch.ended(index, reason)
        if index % self.stream.n == 0:
            self.watch.computed(choice.prompt_tokens - choice.cached_tokens)
        if self.done:
            self.stream.answered = True
            self.watch.whole()


class _Reply(Response, ABC):
    """A response that aborts its request when the client leaves, and always closes its stream."""

    unread_s = UNREAD_S

    def __init__(self, engines: Replicas, answer: Answer) -> None:
        super().__init__()
        self._engines, self._answer = engines, answer
        self._backpressure = Backpressure(engines, answer.stream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        stream, patience_s = self._answer.stream, self._answer.patience_s
        overdue = partial(expire, self._engines, stream, deadline_exceeded(patience_s))
        clock = asyncio.get_running_loop().call_later(patience_s, overdue)
        try:
            with suppress(RequestError):  # of `patient` alone: the connection is cut, and no client is left
                await self._send(scope, receive, self._patient(scope, send))
        finally:
            clock.cancel()
            self._answer.watch.failed(CLIENT_GONE)  # counts only where nothing has said how it ended
            self._engines.close_stream(stream)
            stream.let_go()
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    def _patient(self, scope: Scope, send: Send) -> Send:
        """`send` for a client that may not read: its stream pauses, and the connection is cut in the end."""

        async def patient(message: Message) -> None:
            try:
                # uvicorn waits for room before it takes a message, so one that was given up here was not sent at all.
                async with asyncio.timeout(PAUSE_AFTER_S):
                    return await send(message)
            except TimeoutError:
                self._backpressure.pause()
            try:
                async with asyncio.timeout(self.unread_s):
                    await send(message)
            except TimeoutError:
                abort(scope)
                raise client_gone() from None

        return patient

    def _reported(self, error: Exception) -> RequestError:
        shown = shown_error(error)
        self._answer.watch.failed(shown.status)
        return shown

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._answer.stream.fail(client_gone())

    @abstractmethod
    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole response."""


class WholeReply(_Reply):
    """One JSON body when all choices have ended."""

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._body()
            response = Response(body, 200, self._answer.headers, "application/json")
        except Exception as error:  # one request's code path must not end the server
            response = self._answer.form.refusal(self._reported(error))
        await response(scope, receive, send)

    async def _body(self) -> bytes:
        answer = self._answer
        while not answer.done:
            try:
                arrived = await answer.stream.next()
            except BegunAgain:
                answer.begin_again()
                continue
            for index, piece in answer.take(self._engines, arrived):
                answer.pieces[index].append(piece)
        return answer.form.whole(answer)


class EventReply(_Reply):
    """Server-sent events; one write for all that a step brought."""

    def __init__(self, engines: Replicas, answer: Answer) -> None:
        super().__init__(engines, answer)
        self._write_chunk: Callable[[bytes], bool] = lambda data: False
        self._left = b""
        """Frames that the connection had no room for."""
        self._defect: Exception | None = None

    def _all_headers(self) -> list[tuple[bytes, bytes]]:
        own = [(name.encode(), value.encode()) for name, value in self._answer.headers.items()]
        return _HEADERS + own

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, begun = self._answer, False
        try:
            await answer.stream.wait(HEAD_AFTER_S)
            first = await answer.stream.next() if answer.stream.stirred else []
            frames = answer.form.opening(answer, first) + self._taken(first)
            await send({"type": "http.response.start", "status": 200, "headers": self._all_headers()})
            begun = True
            self._write_chunk, answer.stream.direct = chunk_writer(scope), self._pass_on
            answer.stream.crowded = self._backpressure.pause
            while not answer.done:
                await _write(send, frames)
                self._backpressure.resume()
                arrived = await answer.stream.next()
                if self._defect is not None:
                    raise self._defect
                left, self._left = self._left, b""
                frames = left + self._taken(arrived)
        except Exception as error:  # one request's code path must not end the server
            await self._fail(error, begun, scope, receive, send)
            return
        await send({"type": "http.response.body", "body": frames + answer.form.ending(answer), "more_body": False})

    async def _fail(self, error: Exception, begun: bool, scope: Scope, receive: Receive, send: Send) -> None:
        """A status while nothing has been sent; else a frame without the last chunk, as an answer that was cut must not
        look whole."""
        reported = self._reported(error)
        if begun:
            await _write(send, self._answer.form.broken(self._answer, reported))
        else:
            await self._answer.form.refusal(reported)(scope, receive, send)

    def _pass_on(self, arrived: Sequence[tuple[int, RequestOutput]]) -> bool:
        """Writes a step's frames without waking this reply's task, which costs more than the frames."""
        try:
            frames = self._taken(arrived)
        except Exception as error:  # one request's code path must not end the server
            self._defect = error
            return False
        if not self._answer.done and (not frames or self._write_chunk(frames)):
            return True
        self._left = frames
        return False

    def _taken(self, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        answer = self._answer
        taken = answer.take(self._engines, arrived)
        return b"".join([answer.form.frames(answer, index, piece) for index, piece in taken])


async def _write(send: Send, data: bytes) -> None:
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
