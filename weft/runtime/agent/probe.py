"""Asks an agent or a server whether it is ready. Imports only the standard library: probes run every few seconds."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def of_agent(path: str) -> tuple[bool, str]:
    """Whether the agent is with host 0, and what it said. OSError: it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(path)
        text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    return json.loads(text)["status"] == "joined", text.strip()


def of_server(url: str) -> tuple[bool, str]:
    """Whether the server answers with status 200, and the answer. OSError: it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return True, response.read(65536).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.read(65536).decode(errors='replace')}"


def asked(where: str) -> tuple[bool, str]:
    """Whether the agent at a socket's path, or the server at a URL, is ready, and its answer.

    OSError and ValueError: it does not answer."""
    return of_server(where) if "://" in where else of_agent(where)
