"""Two hosts as namespaces, as tests/hosts has them."""

from __future__ import annotations

from tests.hosts.conftest import cluster

__all__ = ["cluster"]
