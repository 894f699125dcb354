"""A stand-in for a model hub on 127.0.0.1: the three calls that a download makes, and their faults."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SHA = "c" * 40


@dataclass
class Hub:
    """`files`: repository -> name -> content. `status`: repository -> (status, error code) instead of answers.

    `cut_after`: file name -> bytes after which its first download breaks off.
    """

    files: dict[str, dict[str, bytes]]
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    stall: set[str] = field(default_factory=set)
    """Files that stop half-way, the first time, until the hub closes."""
    closing: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)
    """In place of the true ones."""
    sha: str = SHA
    """Commit of the listing."""
    more: list[str] = field(default_factory=list)
    """Names in the listing beside the files."""
    asked: Counter[str] = field(default_factory=Counter)
    """GETs of each file."""
    ranges: list[str] = field(default_factory=list)
    """Range headers that came."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            here = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._silent.close()

    def close(self) -> None:
        """Stops listening, and keeps the port, so that no other process answers there; safe to call twice."""
        self.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(60)
            self._server.server_close()
            self._silent = socket.socket()
            self._silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._silent.bind(self._server.server_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    here: Hub

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo in self.here.status:
            return self._fail(*self.here.status[repo])
        if repo not in self.here.files:
            return self._fail(401 if api else 404, "RepoNotFound")
        if not api:
            return self._file(repo, "/".join(parts[4:]), body)
        revision = parts[5] if len(parts) > 5 else "main"
        if revision not in ("main", SHA):
            return self._fail(404, "RevisionNotFound")
        files = self.here.files[repo]
        if len(parts) > 4 and parts[4] == "tree":
            return self._json([_entry(name, files[name]) for name in sorted(files)])
        blobs = "blobs" in parse_qs(url.query)
        names = [{"rfilename": name} | ({"size": len(files[name])} if blobs else {}) for name in sorted(files)]
        names += [{"rfilename": name} for name in self.here.more]
        listing = {"id": repo, "modelId": repo, "sha": self.here.sha, "siblings": names, "tags": [], "private": False}
        return self._json(listing)

    def _file(self, repo: str, name: str, body: bool) -> None:
        content = self.here.files[repo].get(name)
        if content is None:
            return self._fail(404, "EntryNotFound")
        start = 0
        if body:
            self.here.asked[name] += 1
            if given := self.headers.get("Range"):
                self.here.ranges.append(given)
                start = int(given.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        named = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA} | self.here.headers
        for header, value in named.items():
            self.send_header(header, value)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body and (cut := self.here.cut_after.pop(name, None)) is not None:
            self.wfile.write(content[start : start + cut])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif body and name in self.here.stall:
            self.here.stall.discard(name)
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.here.closing.wait(120)
            self.close_connection = True
        elif body:
            self.wfile.write(content[start:])

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} by the stand-in")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
