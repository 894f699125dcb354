"""`python -m weft.agent.probe WHERE`: asks the agent or the server of a container whether it is ready; for probes.

WHERE is the agent's socket (--agent-socket) or a URL of the server, as http://127.0.0.1:8000/ready. Exit code 0: ready;
1: not, or no answer. --alive: 0 for any answer. Imports only the standard library, as it runs every few seconds.
"""

from __future__ import annotations

import json
import socket
import sys
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


def main(words: list[str]) -> int:
    """Prints the answer."""
    alive = "--alive" in words
    where = [word for word in words if word != "--alive"]
    if len(where) != 1:
        sys.stderr.write("usage: python -m weft.agent.probe SOCKET|URL [--alive]\n")
        return 2
    try:
        ready, text = of_server(where[0]) if "://" in where[0] else of_agent(where[0])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{where[0]}: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0 if ready or alive else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
