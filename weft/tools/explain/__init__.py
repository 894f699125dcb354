"""Explains a layout: what each rank holds, and what moves at each boundary. Reads the engine's own declarations."""

from __future__ import annotations

from weft.tools.explain.document import document, json_schema
from weft.tools.explain.report import LayoutReport, explain
from weft.tools.explain.svg import to_svg
from weft.tools.explain.text import print_report

__all__ = ["LayoutReport", "document", "explain", "json_schema", "print_report", "to_svg"]
