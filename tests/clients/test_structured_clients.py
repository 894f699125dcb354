"""Client libraries that others wrote, unmodified, ask real ranks for structured output and tools; each in its own
environment, made once."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.clients.catalogue import CLIENTS, Client, Place
from benchmarks.clients.run import environment, install
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.hosted import PROGRAM
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.tools.bench.served import Served

NAMES = (
    "openai-structured",
    "instructor",
    "pydantic-ai",
    "outlines",
    "llama-index",
    "langchain-openai",
    "litellm",
    "openai-tools",
    "openai-agents",
    "anthropic",
)
CHOSEN = [client for client in CLIENTS if client.name in NAMES]
LIMIT_S = 300
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("structured-clients")
    model = write_tiny_chat(folder / "tiny", max_position_embeddings=4096)
    with Served(PROGRAM, ["serve", str(model), "--port", "0", "--tp", "2"]) as served:
        yield Place("python", folder, served.wait_ready(240), "tiny", model)


def calls_of(client: Client, place: Place, python: str) -> list[dict[str, object]]:
    """What each call came to."""
    folder = place.folder / client.name
    folder.mkdir()
    command = client.command(Place(python, folder, place.url, place.model, place.directory))
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), timeout=LIMIT_S, capture_output=True, text=True, errors="replace"
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"call"')]
    assert lines, done.stderr[-2000:]
    return lines


def test_the_page_names_the_versions() -> None:
    page = (ROOT / "docs/tools.md").read_text(encoding="utf-8")
    for client in CHOSEN:
        name, version = client.requirements[0].split("==")
        assert re.search(rf"^\| {name.partition('[')[0]} \| {re.escape(version)}( and [\d.]+)? \|$", page, re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("client", CHOSEN, ids=lambda client: client.name)
def test_every_call_of_a_client_is_served(client: Client, place: Place) -> None:
    kept = cache_dir() / "clients"
    kept.mkdir(parents=True, exist_ok=True)
    python = install(client, kept / client.name)
    if python is None:
        pytest.skip(f"pip cannot have {client.requirements}")
    assert [line for line in calls_of(client, place, python) if not line["ok"]] == []


def test_no_client_is_forgotten() -> None:
    assert {client.name for client in CHOSEN} == {*NAMES}
