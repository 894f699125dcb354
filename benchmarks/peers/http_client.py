"""A burst of streaming requests that takes as little of the processor as it can.

All are sent at once, each over its own open connection; every read is stamped with the time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Sequence

import httptools
import httpx
import uvloop

from weft.tools.bench.client import take
from weft.tools.bench.events import EventReader
from weft.tools.bench.outcome import Outcome

PATH = "/v1/completions"


class BurstFailed(Exception):
    """A stream that was not whole."""


class _Stream(asyncio.Protocol):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.ended = outcome, asyncio.get_running_loop().create_future()
        self._parser, self._reader = httptools.HttpResponseParser(self), EventReader()
        self._now, self._body = 0.0, b""

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._body += body
            return
        for event in self._reader.feed(body):
            take(self.outcome, event, self._now)

    def on_message_complete(self) -> None:
        if (status := self._parser.get_status_code()) != 200:
            self.outcome.problem = f"HTTP {status}: {self._body[:300].decode(errors='replace')}"
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.outcome.problem = "the connection ended before the answer"
            self.ended.set_result(None)


def request(prompt: Sequence[int], new: int, model: str) -> bytes:
    """A whole HTTP request for a greedy stream of exactly `new` tokens."""
    body = json.dumps(
        {
            "model": model, "prompt": list(prompt), "max_tokens": new, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def burst(port: int, prompts: Sequence[Sequence[int]], new: int, limit_s: float, model: str = "model") -> list[Outcome]:
    """One stream per prompt. BurstFailed: the first that was not whole, or took longer than `limit_s`."""
    requests = [request(prompt, new, model) for prompt in prompts]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = runner.run(_burst(port, requests, new, limit_s))
    for outcome in outcomes:
        if outcome.problem or outcome.output_tokens != new:
            raise BurstFailed(outcome.problem or f"{outcome.output_tokens} tokens instead of {new}")
    return outcomes


async def _burst(port: int, requests: Sequence[bytes], new: int, limit_s: float) -> list[Outcome]:
    loop, streams = asyncio.get_running_loop(), []
    try:
        for _ in requests:
            streams.append(await loop.create_connection(lambda: _Stream(Outcome(asked=new)), "127.0.0.1", port))
        for (transport, stream), data in zip(streams, requests, strict=True):
            stream.outcome.sent = time.perf_counter()
            transport.write(data)
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(stream.ended for _, stream in streams))
    except OSError as error:
        raise BurstFailed(f"no connection: {error}") from None
    except TimeoutError:
        raise BurstFailed(f"not complete after {limit_s:g} s") from None
    finally:
        for transport, _ in streams:
            transport.close()
    return [stream.outcome for _, stream in streams]


def llama_server_ids(port: int, prompt: Sequence[int], new: int, limit_s: float) -> list[int]:
    """What llama-server generates greedily, by its own endpoint: its only one that gives ids."""
    body = {"prompt": list(prompt), "n_predict": new, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/completion", json=body, timeout=limit_s, trust_env=False)
        return [int(one) for one in answer.raise_for_status().json()["tokens"]]
    except httpx.HTTPError as error:
        raise BurstFailed(f"no ids: {error}") from None


def free_port() -> int:
    """A port without a listener; the peers' servers need one on their command line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
