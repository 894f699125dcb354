"""Does jobs, in whatever process: the worker's, or a caller's own (`weft.LLM`, tests). Without bounds of its own."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property, singledispatchmethod
from typing import Any

from weft.base.errors import RequestError
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.constraints import Check, Grammar, grammar_of
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.engine.text import Tokenizer
from weft.engine.text.bad_words import bad_runs
from weft.engine.text.chat_template import ChatTemplates
from weft.engine.text.length import fewest_tokens
from weft.engine.text.marked_text import MarkedText, unmarked
from weft.frontend.chat.template_probe import probe
from weft.frontend.text_worker.jobs import (
    MOST_IDS,
    BadRuns,
    Begin,
    CheckGrammar,
    CheckSchemas,
    Detokenize,
    Job,
    Render,
    Tokenize,
    TriedTemplates,
    TryGrammar,
    TryTemplates,
)

LONG = 16384
"""Characters of a text that is tokenized without a check first that it can fit: about 20 ms where each is a token."""


class Handler:
    """Over one model's tokenizer. `vocab_size`: columns of logits."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...] = ()) -> None:
        self.tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos_token_ids

    @classmethod
    def begin(cls, begin: Begin) -> Handler:
        """CheckpointError: the model has no tokenizer that is supported."""
        tokenizer = Tokenizer.from_checkpoint(begin.checkpoint)
        if begin.chat_template is not None:
            tokenizer.chat_templates.sources["default"] = begin.chat_template
        return cls(tokenizer, begin.vocab_size, begin.eos_token_ids)

    def prepare(self) -> None:
        """What is made at first use, and takes some tenths of a second for a large vocabulary."""
        self._check  # noqa: B018

    @singledispatchmethod
    def do(self, job: Job) -> Any:
        """What the job gives. RequestError: it is refused."""
        raise TypeError(f"no job: {job!r}")

    @do.register
    def _(self, job: Tokenize) -> list[list[int]]:
        return [self._ids(text, job) for text in job.texts]

    def _ids(self, text: str, job: Tokenize) -> list[int]:
        if job.longest is not None and len(text) > LONG:
            check_fits(self.tokenizer, unmarked(text), job.longest, job.param)
        if job.special == "tokens":
            ids = self.tokenizer.encode(text, add_special_tokens=job.add_special_tokens)
        else:
            marked = text if job.special == "marked" else self._marks.mark(text)
            ids = self._marks.encode(marked, add_special_tokens=job.add_special_tokens)
        if job.keep is None and len(ids) > MOST_IDS:
            raise RequestError(
                f"'{job.param}' has {len(ids)} tokens; legal: at most {MOST_IDS}", param=job.param, code="invalid_value"
            )
        return ids if job.keep is None else ids[-job.keep :]

    @do.register
    def _(self, job: Detokenize) -> str:
        return self.tokenizer.decode(job.ids, skip_special_tokens=False)

    @do.register
    def _(self, job: BadRuns) -> tuple[tuple[int, ...], ...]:
        return bad_runs(self.tokenizer, job.words)

    @do.register
    def _(self, job: Render) -> str:
        if job.template is None:
            return self.tokenizer.apply_chat_template(job.messages, **job.options)
        templates = ChatTemplates({"default": job.template}, self.tokenizer.chat_templates.variables)
        with suppress(RequestError):  # what cannot be used says so itself, as it is rendered
            templates.decide()
        return templates.render(job.messages, **job.options)

    @do.register
    def _(self, job: TryTemplates) -> TriedTemplates:
        if not job.rendered:
            return TriedTemplates()
        templates = self.tokenizer.chat_templates
        templates.decide()
        knows = probe(templates, self.tokenizer.added_tokens) if self.tokenizer.has_chat_template else None
        return TriedTemplates(templates.forms, templates.left_out, knows)

    @do.register
    def _(self, job: CheckGrammar) -> Grammar:
        return grammar_of(job.constraint, self._checked(job.constraint.param))

    @do.register
    def _(self, job: CheckSchemas) -> list[Grammar]:
        return [grammar_of(each, self._checked(each.param)) for each in job.constraints]

    @do.register
    def _(self, job: TryGrammar) -> None:
        try:
            self._checked(job.param).compiles(job.text)
        except GrammarError as error:
            message = f"'{job.param}': no grammar of an answer can hold all of it: {error}"
            raise RequestError(message, param=job.param, code="invalid_schema") from error

    def _checked(self, param: str) -> Check:
        if self._check is None:
            raise RequestError(
                f"'{param}': the model has no token that ends an answer, so no grammar can end",
                param=param,
                code="unsupported_parameter",
            )
        return self._check

    @cached_property
    def _marks(self) -> MarkedText:
        return MarkedText(self.tokenizer)

    @cached_property
    def _check(self) -> Check | None:
        vocabulary = self.tokenizer.vocabulary(self._vocab_size, self._eos)
        if vocabulary is None:
            return None
        tokens = vocabulary.tokens()
        added = {tokens[id].decode(errors="replace"): id for id in vocabulary.added}
        return Check(LLGuidanceCompiler(vocabulary).check, added)


def check_fits(tokenizer: Tokenizer, text: str, max_model_len: int, param: str) -> None:
    """RequestError: a part of the text has too many tokens."""
    found = fewest_tokens(tokenizer, text, max_model_len)
    if found >= max_model_len:
        raise too_long(f"at least {found}", max_model_len, param)


def too_long(tokens: str, max_model_len: int, param: str) -> RequestError:
    """A text has too many `tokens` for the context."""
    return RequestError(
        f"'{param}' has {tokens} tokens; the context is {max_model_len} tokens,"
        f" so at most {max_model_len - 1} leave room for an answer",
        param=param,
        code="context_length_exceeded",
    )
