"""LayoutView: what `weft explain` says of the layout that runs, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import msgspec

from weft.tools.explain.document import document
from weft.tools.explain.report import LayoutReport
from weft.tools.explain.svg import to_svg


class LayoutView:
    """`report` is called when something is first read: a report on thousands of ranks takes a second."""

    def __init__(self, report: Callable[[], LayoutReport]) -> None:
        self._make = report

    @cached_property
    def _report(self) -> LayoutReport:
        return self._make()

    @cached_property
    def json(self) -> bytes:
        """As `weft explain --json`."""
        return msgspec.json.encode(document(self._report))

    @cached_property
    def picture(self) -> bytes:
        """As `weft explain --svg`."""
        return to_svg(self._report).encode()
