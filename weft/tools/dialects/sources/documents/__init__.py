"""YAML and JSON files as trees with places."""

from __future__ import annotations
