"""Client: sends one streaming request and watches the clock. Raw server-sent events over httpx, nothing in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from weft.tools.bench.events import EventReader
from weft.tools.bench.outcome import Outcome
from weft.tools.bench.settings import BenchSettings
from weft.tools.bench.workload import BenchRequest


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def says(self) -> bool:
        if self.delta is None:
            return bool(self.text)
        delta = self.delta
        return bool(delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """Where requests go. `url` without /v1; `model` as the server names it."""

    url: str
    model: str
    key: str | None = None

    def client(self, connections: int) -> httpx.AsyncClient:
        """A client with so many connections at most."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=None, trust_env=not is_local(self.url)
        )


def is_local(url: str) -> bool:
    """Whether the address is this machine's own: no proxy stands between."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def body_of(target: BenchTarget, settings: BenchSettings, request: BenchRequest) -> dict[str, Any]:
    """The request's JSON."""
    chat = settings.endpoint == "chat"
    body: dict[str, Any] = {
        "model": target.model,
        "messages" if chat else "prompt": request.prompt,
        "max_tokens": request.output_len,
        "temperature": settings.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return body | ({"ignore_eos": True} if settings.ignore_eos else {})


async def send(
    client: httpx.AsyncClient, path: str, body: bytes, outcome: Outcome, clock: Callable[[], float], limit_s: float
) -> None:
    """Sends `body` and fills `outcome`; whatever goes wrong is written there, never raised."""
    outcome.sent = clock()
    try:
        async with asyncio.timeout(limit_s):
            await _stream(client, path, body, outcome, clock)
    except TimeoutError:
        outcome.problem, outcome.detail = "timeout", f"not complete after {limit_s:g} s"
    except httpx.HTTPError as error:
        began = outcome.first is not None
        outcome.problem = "stream broke off" if began else "no connection"
        outcome.detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    outcome.ended = clock()


async def _stream(
    client: httpx.AsyncClient, path: str, body: bytes, outcome: Outcome, clock: Callable[[], float]
) -> None:
    headers = {"content-type": "application/json", "accept": "text/event-stream", "accept-encoding": "identity"}
    async with client.stream("POST", path, content=body, headers=headers) as response:
        if response.status_code != 200:
            outcome.problem, outcome.detail = f"HTTP {response.status_code}", _message(await response.aread())
            return
        reader = EventReader()
        async for piece in response.aiter_raw():
            now = clock()
            for data in reader.feed(piece):
                take(outcome, data, now)
    _check(outcome)


def take(outcome: Outcome, data: bytes, now: float) -> None:
    """One event's data, arrived at `now`."""
    if data == b"[DONE]":
        outcome.done = True
        return
    try:
        chunk = _decode(data)
    except msgspec.MsgspecError:
        outcome.problem = outcome.problem or "event is no chunk"
        outcome.detail = outcome.detail or data[:200].decode(errors="replace")
        return
    if chunk.error is not None:
        outcome.problem, outcome.detail = "error in the stream", _message(data)
    for choice in chunk.choices:
        if choice.says:
            outcome.text_at(now)
        if choice.finish_reason is not None:
            outcome.finished_at(now, choice.finish_reason)
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        outcome.counted = True
        outcome.input_tokens = chunk.usage.prompt_tokens
        outcome.output_tokens = chunk.usage.completion_tokens
        outcome.cached_tokens = (details.cached_tokens or 0) if details is not None else 0


def _check(outcome: Outcome) -> None:
    """A stream that has ended: was it whole?"""
    if not outcome.counted:
        outcome.output_tokens = outcome.pieces
    if outcome.problem is None and outcome.finish_reason is None:
        outcome.problem, outcome.detail = "no finish_reason", f"the stream ended after {outcome.pieces} pieces"
    elif outcome.problem is None and not outcome.done:
        outcome.problem, outcome.detail = "no [DONE]", f"the stream ended after {outcome.pieces} pieces"


def _message(body: bytes) -> str:
    """The message of an error object, or the body's beginning."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        value = None
    error = value.get("error", value) if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) else body.decode(errors="replace")
    return " ".join(text.split())[:300]


def clock_from_now() -> Callable[[], float]:
    """Seconds since this call, monotonic."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began
