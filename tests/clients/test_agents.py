"""Coding agents and libraries of npm, as they are installed, against a running server: they ask, call a tool, send its
result and show the answer; no request of theirs is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.agents import AGENTS, Agent, Place
from tests.frontend.server.conftest import Running
from tests.support.fakes.agent_executor import RESULT

LIMIT_S = 240
DOCS = Path(__file__).resolve().parents[2] / "docs" / "clients.md"


@pytest.mark.long
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_it_works(agents_server: Running, agent: Agent, tmp_path: Path) -> None:
    program = agent.installed()
    if program is None:
        pytest.skip(f"cannot have {agent.packages}")
    place = Place(program, tmp_path, agents_server.url)
    done = subprocess.run(
        agent.command(place), cwd=tmp_path, env=agent.environment(place), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    counts = agents_server.http.get("/metrics").text
    answered = re.findall(r'http_requests_total{handler="(/[^"]*)",method="\w+",status="(\w+)"} (\S+)', counts)
    assert answered and {status for path, status, count in answered if path.startswith("/v1/")} == {"2xx"}, answered
    if agent.made is not None:
        assert "Hello from weft" in (tmp_path / agent.made).read_text()
    elif agent.program != "node":
        assert RESULT in done.stdout.splitlines()[-1] or f"said {RESULT}" in done.stdout, done.stdout[-4000:]


def test_the_page_has_every_version() -> None:
    page = DOCS.read_text()
    for agent in AGENTS:
        for package in agent.packages:
            name, _, version = package.replace("==", "@").rpartition("@")
            assert name == "zod" or f"`{name}` | {version} |" in page, package
