"""Shell scripts and command lines."""

from __future__ import annotations
