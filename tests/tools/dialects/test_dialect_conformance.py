"""One conformance test for all dialects."""

from __future__ import annotations

import pytest

from tests.tools.dialects.dialect_conformance import check_dialect
from weft.tools.dialects.names import names


@pytest.mark.parametrize("name", names())
def test_dialect(name: str) -> None:
    check_dialect(name)
