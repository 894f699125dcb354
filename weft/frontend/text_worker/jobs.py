"""Jobs of the text worker and their answers. Plain records in msgpack.

A new kind of job is a record here with its `result`, and a method of `handler.Handler`. `size`: characters or token ids
that its time follows from; None: it runs what a template, a schema or a grammar says.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from weft.base.errors import RequestError
from weft.compute.grammars.constraints import Constraint, Grammar
from weft.compute.grammars.nesting import MOST_LEVELS_OF_JOB, is_deeper
from weft.engine.text.chat_template import TemplateForm
from weft.frontend.chat.template_probe import TemplateKnows
from weft.model.checkpoint import Checkpoint


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The first message: `checkpoint` without its tensors, and a chat template that replaces the model's own."""

    checkpoint: Checkpoint
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, vocab_size: int, eos_token_ids: tuple[int, ...] = (), template: str | None = None
    ) -> Begin:
        """For the tokenizer of `checkpoint` and logits of `vocab_size` columns."""
        return cls(msgspec.structs.replace(checkpoint, tensors={}), vocab_size, eos_token_ids, template)


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Ids of each text. RequestError naming `param`: one has `longest` tokens or more (None: any length will do), or
    more than MOST_IDS. `keep`: only so many of its last ids (None: all). `special`: special tokens that are written out
    are tokens, text, or text where they are marked (`engine.text.marked_text`)."""

    result: ClassVar[Any] = list[list[int]]
    work: ClassVar[str] = "tokenize"
    cpu_s: ClassVar[float] = 10.0
    texts: list[str]
    add_special_tokens: bool = True
    longest: int | None = None
    param: str = "prompt"
    keep: int | None = None
    special: Literal["tokens", "text", "marked"] = "tokens"

    @property
    def size(self) -> int:
        """Characters."""
        return sum(map(len, self.texts))


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """The text of ids, special tokens written out."""

    result: ClassVar[Any] = str
    param: ClassVar[str | None] = "tokens"
    work: ClassVar[str] = "detokenize"
    cpu_s: ClassVar[float] = 10.0
    ids: list[int]

    @property
    def size(self) -> int:
        """Ids."""
        return len(self.ids)


class BadRuns(msgspec.Struct, frozen=True, tag="bad"):
    """Runs of ids that words are, which an answer may not hold."""

    result: ClassVar[Any] = tuple[tuple[int, ...], ...]
    param: ClassVar[str | None] = "bad_words"
    work: ClassVar[str] = "tokenize"
    cpu_s: ClassVar[float] = 10.0
    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Characters; each word is tokenized twice."""
        return 2 * sum(map(len, self.words))


MORE_MEMORY = "more memory than loading it may"
"""What a tokenizer takes."""
MOST_IDS = 1 << 20
"""Ids of one text that come back."""
LONG_TEXT = 1 << 16
"""Characters above which a job's texts are long: about a tenth of a second where each is a token. The server leaves
them to a process of their own, one after the other."""


class Render(msgspec.Struct, frozen=True, tag="render"):
    """The prompt of a conversation, as text; `options` as of `ChatTemplates.render`. `template`: instead of the
    model's own."""

    result: ClassVar[Any] = str
    size: ClassVar[int | None] = None
    param: ClassVar[str | None] = "messages"
    work: ClassVar[str] = "render"
    cpu_s: ClassVar[float] = 2.0
    messages: list[dict[str, Any]]
    options: dict[str, Any] = {}
    template: str | None = None


class TriedTemplates(msgspec.Struct, frozen=True):
    """`forms`: by name of a template, how it reads what it is given. `left_out`: by name, why it cannot be used.
    `knows`: what the usual one knows; None: there is none."""

    forms: dict[str, TemplateForm] = {}
    left_out: dict[str, str] = {}
    knows: TemplateKnows | None = None


class TryTemplates(msgspec.Struct, frozen=True, tag="templates"):
    """The form of each template and what the usual one knows, all found by rendering. RequestError: the usual one
    cannot be used. Not `rendered`: nothing is found, but that the tokenizer can be loaded."""

    result: ClassVar[Any] = TriedTemplates
    size: ClassVar[int | None] = None
    param: ClassVar[str | None] = None
    work: ClassVar[str] = "render"
    cpu_s: ClassVar[float] = 2.0
    rendered: bool = True


class CheckGrammar(msgspec.Struct, frozen=True, tag="grammar"):
    """The grammar of a constraint, which compiles for this model."""

    result: ClassVar[Any] = Grammar
    size: ClassVar[int | None] = None
    work: ClassVar[str] = "check"
    cpu_s: ClassVar[float] = 2.0
    constraint: Constraint

    @property
    def param(self) -> str | None:
        """The field that errors name."""
        return self.constraint.param


class CheckSchemas(msgspec.Struct, frozen=True, tag="schemas"):
    """The grammar of each of some schemas, which compile for this model one by one."""

    result: ClassVar[Any] = list[Grammar]
    size: ClassVar[int | None] = None
    work: ClassVar[str] = "check"
    cpu_s: ClassVar[float] = 4.0
    constraints: list[Constraint]

    @property
    def param(self) -> str | None:
        """The field that errors name: where it could be several, the first."""
        return self.constraints[0].param if self.constraints else None


class TryGrammar(msgspec.Struct, frozen=True, tag="try"):
    """Nothing. RequestError naming `param`: the grammar does not compile within bounds."""

    result: ClassVar[Any] = None
    size: ClassVar[int | None] = None
    work: ClassVar[str] = "check"
    cpu_s: ClassVar[float] = 2.0
    text: str
    param: str


Job = Tokenize | Detokenize | BadRuns | Render | TryTemplates | CheckGrammar | CheckSchemas | TryGrammar


def too_deep(job: Job) -> RequestError | None:
    """Why a job is refused before anything unpacks it: its values are nested too deeply."""
    fields = [getattr(job, name) for name in job.__struct_fields__]
    constraints = [one for each in fields for one in (each if isinstance(each, list) else [each])]
    values = [one.value if isinstance(one, Constraint) else one for one in constraints]
    if not is_deeper(values, MOST_LEVELS_OF_JOB + 1):
        return None
    message = f"{named(job)} is nested deeper than {MOST_LEVELS_OF_JOB} levels"
    return RequestError(message, param=job.param, code="invalid_value")


def named(job: Job) -> str:
    """What errors say it is that cannot be worked on."""
    return f"'{job.param}'" if job.param else "the request"


class JobRefusal(msgspec.Struct, frozen=True):
    """A RequestError on its way."""

    message: str
    param: str | None
    status: int
    code: str | None

    @classmethod
    def of(cls, error: RequestError) -> JobRefusal:
        """The same."""
        return cls(str(error), error.param, error.status, error.code)

    def error(self) -> RequestError:
        """To be raised."""
        return RequestError(self.message, param=self.param, status=self.status, code=self.code)


class JobAnswer(msgspec.Struct, frozen=True):
    """What a job gave: packed `value`, or why there is none. `ends`: the worker's process ends with this answer."""

    value: bytes = b""
    refusal: JobRefusal | None = None
    ends: bool = False


class Ready(msgspec.Struct, frozen=True):
    """The worker's process takes jobs; `problem`: it cannot."""

    problem: str = ""


_encoder = msgspec.msgpack.Encoder()
_jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)


def pack(message: object) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def unpack_job(frame: bytes) -> Job:
    """In the worker."""
    return _jobs.decode(frame)


def unpack_result(job: Job, answer: JobAnswer) -> Any:
    """What `job` gave. RequestError: why there is nothing."""
    if answer.refusal is not None:
        raise answer.refusal.error()
    return msgspec.msgpack.decode(answer.value, type=job.result)
