"""The tests of anthropic's own library, from its source archive, against real ranks: those that create a message, read
a stream and count tokens, without the parameters of services that this server does not have."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.clients.catalogue import Client
from benchmarks.clients.run import environment, install
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.hosted import PROGRAM
from weft.model.checkpoint.hub.embedded import cache_dir
from weft.tools.bench.served import Served

VERSION = "2.14.0"
SUITE = Client(
    "anthropic-suite",
    (
        f"anthropic[aiohttp]=={VERSION}", "pytest", "pytest-asyncio", "pytest-xdist", "inline-snapshot", "respx",
        "http-snapshot[httpx]==0.1.9", "dirty-equals", "time-machine", "rich", "boto3", "httpx2", "nest_asyncio",
        "opentelemetry-sdk",
    ),
    lambda place: [],
)  # fmt: skip
MODEL = "claude-opus-5-5"
"""The name that the suite asks for."""
LIMIT_S = 280


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = write_tiny_chat(tmp_path_factory.mktemp("anthropic-suite") / "tiny", max_position_embeddings=4096)
    options = ["serve", str(model), "--port", "0", "--tp", "2", "--served-model-name", MODEL]
    with Served(PROGRAM, options) as served:
        yield served.wait_ready(240)


def suite_of(python: str, folder: Path) -> Path:
    """The unpacked archive; its tests are not in the wheel."""
    name = f"anthropic-{VERSION}"
    if not (folder / name).is_dir():
        command = [
            python,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "anthropic",
            "-d",
            str(folder),
        ]
        subprocess.run([*command, f"anthropic=={VERSION}"], check=True)
        with tarfile.open(folder / f"{name}.tar.gz") as packed:
            packed.extractall(folder, filter="data")
    return folder / name


@pytest.mark.long
def test_the_plain_tests_of_messages_pass(url: str, tmp_path: Path) -> None:
    kept = cache_dir() / "clients"
    kept.mkdir(parents=True, exist_ok=True)
    python = install(SUITE, kept / SUITE.name)
    if python is None:
        pytest.skip(f"pip cannot have {SUITE.requirements}")
    try:
        suite = suite_of(python, kept / SUITE.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip cannot have the source archive: {error}")
    chosen = ["tests/api_resources/test_messages.py", "-k", "not all_params and not deprecated"]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen],
        cwd=suite,
        env={**environment(tmp_path), "TEST_API_BASE_URL": url, "PATH": os.environ["PATH"]},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]
