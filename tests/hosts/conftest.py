"""Two hosts as namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.cluster import Cluster
from tests.support.namespaces import hosts, need_namespaces
from tests.support.tiny_chat import write_tiny_chat


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    need_namespaces()
    with hosts(tmp_path) as found:
        models = [write_tiny_chat(host.folder / "tiny") for host in found]
        secrets = []
        for host in found:
            secret = host.folder / "secret"
            secret.touch(mode=0o600)
            secret.write_text("correct horse battery staple\n")
            secrets.append(secret)
        yield Cluster(found, models, secrets)
