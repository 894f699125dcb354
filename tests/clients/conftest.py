"""A server for agents: its model calls the agent's shell once, and says what that printed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, start_server, tokenizer
from tests.support.fakes.agent_executor import AgentExecutor
from weft.engine.text import Tokenizer

__all__ = ["start_server", "tokenizer"]


@pytest.fixture
def agents_server(start_server: Any, tokenizer: Tokenizer) -> Iterator[Running]:
    ranks: Any = partial(AgentExecutor, tokenizer)
    running = start_server("x", longest=1 << 18, ranks=ranks, max_num_seqs=8, max_queued=64)
    yield running
    running.stop()
