"""A model's tokenizer and chat templates tried at start, in the text worker's bounds of time, memory and depth, before
this process reads the tokenizer."""

from __future__ import annotations

from collections.abc import Callable

from weft.base.errors import CheckpointError, ConfigError, RequestError
from weft.base.printable import printable
from weft.engine.text import Tokenizer
from weft.frontend.text_worker.client import BeginFault
from weft.frontend.text_worker.jobs import TriedTemplates, TryTemplates
from weft.frontend.text_worker.texts import Texts


def try_templates(texts: Texts, where: str, *, given: bool = False, templates: bool = True) -> TriedTemplates:
    """The form of each template, and what the usual one knows. CheckpointError: a tokenizer that cannot be loaded, or
    the usual template cannot be used; `where` names the model. ConfigError: the same of a template that a person has
    `given`."""
    try:
        found: TriedTemplates = texts.submit(TryTemplates(templates)).result()
        return found
    except RequestError as error:
        if isinstance(error.__cause__, BeginFault):
            raise CheckpointError(printable(str(error.__cause__))) from None
        reason = f"the chat template takes more than {TryTemplates.cpu_s:g} s" if error.code == "too_slow" else error
        message = f"{where}: {printable(str(reason))}; give another with --chat-template"
        if given:
            raise ConfigError(message, field="chat_template") from None
        raise CheckpointError(message) from None


def take_tried(tokenizer: Tokenizer, found: TriedTemplates, say: Callable[[str], object]) -> None:
    """Gives `tokenizer` what was found, and says what does not fit."""
    templates = tokenizer.chat_templates
    templates.forms |= found.forms
    templates.leave_out(found.left_out)
    for name, reason in found.left_out.items():
        say(printable(f"chat template {name!r} is left out: {reason}"))
    for note in tokenizer.notes:
        say(printable(note))
