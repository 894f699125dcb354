"""What a text worker of a tiny model begins with."""

from __future__ import annotations

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.frontend.text_worker.jobs import Begin
from weft.model.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Begin:
    return Begin.of(open_checkpoint(write_tiny_chat(tmp_path_factory.mktemp("model"))), 264)
