"""Texts that contain an engine's command or file, read into documents; flags are read by the dialects."""

from __future__ import annotations
