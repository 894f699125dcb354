"""The probe of containers: what it asks an agent's socket or a server, and what its exit code says."""

from __future__ import annotations

import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.namespaces import ROOT
from weft.base.errors import ConfigError
from weft.cli.main import main as weft_main
from weft.runtime.agent.answering import Answering


def main(words: list[str]) -> int:
    """Exit code of `weft probe`."""
    return weft_main(["probe", *words])


@pytest.mark.parametrize(("status", "ready"), [("joined", 0), ("waiting for host 0", 1)])
def test_an_agent_says_how_it_is(tmp_path: Path, status: str, ready: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Ready if it is with host 0, alive in any case; not when it has ended, or when another file is at the path."""
    path = tmp_path / "agent.sock"
    answering = Answering(str(path), lambda: {"status": status, "host": 1})
    assert (main([str(path)]), main([str(path), "--alive"])) == (ready, 0)
    assert f'{{"status": "{status}", "host": 1}}' in capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    answering.close()
    assert not path.exists() and main([str(path), "--alive"]) == 1


def test_a_socket_that_an_agent_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    Answering(str(path), lambda: {"status": "joined"}).close()
    path.write_text("a file")
    with pytest.raises(ConfigError, match="agent_socket .*: Address already in use"):
        Answering(str(path), dict)
    with pytest.raises(ConfigError, match="agent_socket .*: .*path too long"):
        Answering(str(tmp_path / ("x" * 120)), dict)


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_server_is_ready_with_status_200() -> None:
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert (main([f"{url}/health"]), main([f"{url}/ready"]), main([f"{url}/ready", "--alive"])) == (0, 1, 0)
        server.shutdown()
    assert main([url]) == 1 and main([]) == 2


def test_it_starts_quickly() -> None:
    """It runs every few seconds: the standard library alone."""
    code = "import sys, weft.runtime.agent.probe; print({'torch', 'msgspec', 'weft.base.log'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
