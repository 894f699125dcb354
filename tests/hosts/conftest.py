"""Two hosts as namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import weft
from tests.hosts.cluster import PROMPTS, Cluster
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


@pytest.fixture(scope="module")
def of_one_rank(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Answers to PROMPTS on one host."""
    model = write_tiny_chat(tmp_path_factory.mktemp("alone") / "tiny")
    with weft.LLM(str(model), kv_cache_memory=4 << 20) as llm:
        found = llm.generate(list(PROMPTS), weft.SamplingParams(max_tokens=16, temperature=0))
    return [each.outputs[0].text for each in found]
