"""Fixtures of tests that compute: the C++ libraries are built once, and torch has one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from weft.compute.native.build import ensure_built
from weft.compute.native.libraries import needed


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    ensure_built(needed())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(_one_thread: None) -> None:
    torch.set_num_threads(2)
