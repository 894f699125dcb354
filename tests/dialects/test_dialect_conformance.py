"""One conformance test for all dialects."""

from __future__ import annotations

import pytest

from tests.dialects.dialect_conformance import check_dialect
from weft.dialects.names import names


@pytest.mark.parametrize("name", names())
def test_dialect(name: str) -> None:
    check_dialect(name)
