"""Dialects: the commands and files of other engines, read into a layout and written from one. Imports no torch."""

from __future__ import annotations
