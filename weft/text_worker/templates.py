"""A model's chat templates tried at start, in the text worker's bounds of time, memory and depth."""

from __future__ import annotations

from weft.errors import CheckpointError, RequestError
from weft.printable import printable
from weft.text import Tokenizer
from weft.text_worker.client import Texts
from weft.text_worker.jobs import TryTemplates


def try_templates(texts: Texts, tokenizer: Tokenizer, where: str) -> None:
    """Finds how contents reach each template of `tokenizer`. CheckpointError: one that cannot be used; `where` names
    the model."""
    if not tokenizer.chat_templates.sources:
        return
    try:
        tokenizer.chat_templates.parts |= texts.submit(TryTemplates()).result()
    except RequestError as error:
        raise CheckpointError(f"{where}: {printable(str(error))}") from None
