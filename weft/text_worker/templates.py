"""A model's chat templates tried at start, in the text worker's bounds of time, memory and depth."""

from __future__ import annotations

import contextlib

from weft.checkpoint import Checkpoint
from weft.errors import CheckpointError, ConfigError, RequestError
from weft.printable import printable
from weft.text import Tokenizer
from weft.text_worker.client import Texts, TextWorker
from weft.text_worker.jobs import Begin, TryTemplates


def try_alone(checkpoint: Checkpoint, vocab_size: int, tokenizer: Tokenizer) -> None:
    """The same in a worker that is there for it alone."""
    with contextlib.closing(TextWorker(Begin.of(checkpoint, vocab_size))) as texts:
        try_templates(texts, tokenizer, checkpoint.path)


def try_templates(texts: Texts, tokenizer: Tokenizer, where: str, *, given: bool = False) -> None:
    """Finds how contents reach each template of `tokenizer`. CheckpointError: one that cannot be used; `where` names
    the model. ConfigError: the same of a template that a person has `given`."""
    if not tokenizer.chat_templates.sources:
        return
    try:
        tokenizer.chat_templates.parts |= texts.submit(TryTemplates()).result()
    except RequestError as error:
        reason = f"the chat template takes more than {TryTemplates.cpu_s:g} s" if error.code == "too_slow" else error
        message = f"{where}: {printable(str(reason))}; give another with --chat-template"
        if given:
            raise ConfigError(message, field="chat_template") from None
        raise CheckpointError(message) from None
