"""Texts in which an engine's command or file stands, read into documents. No module here knows an engine's flags."""

from __future__ import annotations
