"""The official openai client, unmodified: every kind of call against real ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.clients.openai_calls import CALLS
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.hosted import PROGRAM
from weft.tools.bench.served import Served


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = write_tiny_chat(tmp_path_factory.mktemp("clients") / "tiny")
    with Served(PROGRAM, ["serve", str(model), "--port", "0", "--tp", "2"]) as served:
        yield served.wait_ready(120)


@pytest.mark.parametrize("name", CALLS)
def test_call(url: str, name: str) -> None:
    CALLS[name](url, "tiny")


def test_no_kind_of_call_is_left_out() -> None:
    """What the client offers for text, by the names of its resources."""
    assert len(CALLS) >= 20
    assert {"chat stream helper", "completion with echo and logprobs", "async calls", "raw response"} <= set(CALLS)
