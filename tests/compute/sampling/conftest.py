"""The sampling kernel is in the step library, which is built once; torch has one thread."""

from __future__ import annotations

from tests.support.torch_threads import _built, _one_thread, two_threads

__all__ = ["_built", "_one_thread", "two_threads"]
