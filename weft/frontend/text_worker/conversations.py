"""Conversations of `weft.LLM`: the chat template is rendered in a text worker, in the same bounds as for the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.frontend.text_worker.client import TextWorker
from weft.frontend.text_worker.jobs import Begin, Render
from weft.frontend.text_worker.texts import Texts


class Conversations:
    """`begin`: what a worker starts with, at the first conversation. `texts`: one that runs already, and that its owner
    closes."""

    def __init__(self, begin: Begin, texts: Texts | None = None) -> None:
        self._begin, self._texts = begin, texts
        self._own: TextWorker | None = None

    def prompt(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """A conversation as text. RequestError: the template refuses it, or takes more time or memory than it may."""
        if self._texts is None:
            self._texts = self._own = TextWorker(self._begin)
        job = Render([dict(message) for message in messages], {"add_generation_prompt": add_generation_prompt})
        return str(self._texts.submit(job).result())

    def close(self) -> None:
        """Ends the worker that was started here; safe to call twice."""
        if self._own is not None:
            self._own.close()
