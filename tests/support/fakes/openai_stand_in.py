"""A stand-in for an OpenAI-compatible server on 127.0.0.1 that answers by script, with faults."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("refuse", "no done", "no finish", "error frame", "cut", "not json", "hang", "busy")


@dataclass
class StandIn:
    """Answers `max_tokens` words. `faults`: number of the request -> one of FAULTS. `gap_s`: before each word."""

    faults: dict[int, str] = field(default_factory=dict)
    gap_s: float = 0.0
    together: int = 1
    """No answer begins before so many requests have been under way at once."""
    usage: bool = True
    short: int = 0
    """Tokens that an answer lacks."""
    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0
    """Requests that were under way at once."""

    def __enter__(self) -> StandIn:
        stand_in = self

        class Handler(_Handler):
            here = stand_in

        self._lock, self._now = threading.Lock(), 0
        self.closing, self._crowded = threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join(60)
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def enter(self, body: dict[str, Any]) -> int:
        """The number of a request that begins."""
        with self._lock:
            self.bodies.append(body)
            self._now += 1
            self.most = max(self.most, self._now)
            if self.most >= self.together:
                self._crowded.set()
            return len(self.bodies) - 1

    def wait_for_company(self) -> None:
        """Until as many as wanted are there, or it is clear that they do not come."""
        self._crowded.wait(60)

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


class _Server(ThreadingHTTPServer):
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    here: StandIn

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        if self.here.key is not None and self.headers.get("Authorization") != f"Bearer {self.here.key}":
            return self._whole(401, {"error": {"message": "no key"}})
        known = {
            "/v1/models": {"data": [{"id": "small", "max_model_len": 512}]},
            "/version": {"version": "7.1"},
        }
        return self._whole(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.here.enter(body)
        try:
            self._answer(body, self.here.faults.get(number, ""))
        finally:
            self.here.leave()

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        if fault in ("refuse", "busy"):
            status, message = (400, "unknown field 'ignore_eos'") if fault == "refuse" else (429, "queue is full")
            return self._whole(status, {"error": {"message": message}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.here.wait_for_company()
        count = body["max_tokens"] - self.here.short
        for number in range(count):
            time.sleep(self.here.gap_s)
            self._choice({"text": f"w{number} "})
            if fault == "cut":
                return None
        if fault == "hang":
            self.here.closing.wait(120)
        elif fault == "error frame":
            self._event({"error": {"message": "rank 1 was killed by SIGKILL", "code": 500}})
        elif fault == "not json":
            self.wfile.write(b"data: {oops\n\n")
        if fault not in ("no finish", "error frame"):
            self._choice({"text": "", "finish_reason": "length"})
            if self.here.usage:
                details = {"cached_tokens": 1}
                usage = {"prompt_tokens": 5, "completion_tokens": count, "prompt_tokens_details": details}
                self._event({"choices": [], "usage": usage})
        if fault not in ("no done", "error frame"):
            self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _choice(self, choice: dict[str, Any]) -> None:
        chat = self.path.endswith("chat/completions")
        shown = {"delta": {"content": choice.pop("text")}, **choice} if chat else choice
        self._event({"choices": [{"index": 0, **shown}]})

    def _event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def _whole(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
