"""The types that every dialect shares: documents in, readings with notes and places out.

A reader turns one `Document` into `Reading`s; a size that depends on a variable stays open (None). `Draft` collects
notes, options and refusals while a reader works.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Protocol

from weft.base.errors import LayoutError
from weft.parallel.layout import Layout
from weft.tools.dialects.sizes import Sizes

Level = Literal["info", "warning", "error"]
MENTIONED = 0.95
"""How much a text that has an engine's name somewhere looks like it: less than keys that only its files have."""
OPEN_NODE = -1
"""Rank of a node whose command takes it from a variable."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the input, counted from 1; `text` is what stands there."""

    line: int
    column: int
    text: str = ""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A remark on a reading or a written text: severity, code, message, place."""

    level: Level
    code: str
    message: str
    where: Where | None = None

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine itself would not start with this; `legal` are the values it takes, where they are known."""

    message: str
    legal: tuple[object, ...] = ()
    where: Where | None = None

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {"message": self.message, "legal": list(self.legal)}


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command as its shell hands it over; `variables` are the names that it still depends on."""

    text: str
    where: Where
    variables: tuple[str, ...] = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file that the input itself writes (heredoc, echo); `line` is the input's line of its first line."""

    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One command or one file of the input, with everything around it already taken off."""

    kind: Literal["command", "file"]
    text: str
    name: str = ""
    """What the input calls it: the comment above a variant, a service, a file."""
    line: int = 1
    """The input's line of the first line of `text`."""
    program: tuple[Word, ...] = ()
    words: tuple[Word, ...] = ()
    """Arguments of the program."""
    wrapper: tuple[Word, ...] = ()
    """Words before the program: mpirun -n 8, docker run ..., torchrun ..."""
    environment: Mapping[str, Word] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    notes: tuple[Diagnostic, ...] = ()
    dialect: str = ""
    """The engine that the program belongs to; empty for a fragment."""
    nodes: int | None = None
    """Nodes that what surrounds the command gives to its engine."""

    @property
    def fragment(self) -> bool:
        """Arguments without the command they belong to."""
        return self.kind == "command" and not self.program


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the user gives apart from the text."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Values of variables and open sizes (--set TP=8)."""
    experts: int | None = None
    """Routed experts by the model's config; 0: dense; None: not known from a config."""
    model: str = ""
    """The model's name where the text gives none."""
    read_file: Callable[[str], str | None] | None = None
    """Text of a file that the text names but does not hold; None where there is no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a document means. `layout` is None while a size is open or when the engine would refuse."""

    dialect: str
    layout: Layout | None
    sizes: Sizes | None = None
    """Every size, open ones None; None when nothing could be derived."""
    name: str = ""
    """'prefill' and 'decode' of a disaggregated deployment, else what the input calls it."""
    role: Literal["", "prefill", "decode"] = ""
    options: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[Diagnostic, ...] = ()
    refused: Refusal | None = None
    variables: tuple[str, ...] = ()
    """Variables that sizes still depend on."""
    experts: int | None = None
    """Routed experts of the model; 0: dense; None: unknown."""
    node: int | None = None
    """Rank of the node that the command is for, where it says so; OPEN_NODE: a variable says it."""
    place: Where | None = None
    """Where its command starts."""

    def layout_document(self) -> dict[str, object] | None:
        """The layout's nested document, every size resolved or null, plus world; None when refused."""
        return None if self.sizes is None or self.refused else self.sizes.document()

    def noted(self, *notes: Diagnostic) -> Reading:
        """The same reading with further notes."""
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True, slots=True)
class Written:
    """A command or file, and a note for everything that it cannot say."""

    text: str
    notes: tuple[Diagnostic, ...] = ()


class Dialect(Protocol):
    """One engine's vocabulary. A folder of this package exports its own as `DIALECT`."""

    name: str
    title: str
    """The engine's own name."""

    @property
    def programs(self) -> Sequence[Sequence[str]]:
        """Regular expressions, one per word, that match the words a command starts with; the surest first."""

    def recognizes(self, text: str) -> float:
        """How much a text without a known program looks like this engine's: 0 not at all, 1 certainly."""

    def read(self, document: Document, context: Context) -> list[Reading]:
        """The meaning of one document; never raises for what a user wrote."""

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """The engine's command or file for a layout; notes say what it cannot say.

        `source`: whose options they are. An engine's own are all written; of another's, those that mean the same.
        """


class Draft:
    """Collects what a reader finds; the first refusal stays."""

    def __init__(self, dialect: str, document: Document, context: Context) -> None:
        self.dialect, self.document, self.context = dialect, document, context
        self.notes: list[Diagnostic] = list(document.notes)
        self.options: dict[str, object] = {}
        self.variables: list[str] = []
        self.refused: Refusal | None = None
        self.node: int | None = None

    def note(self, level: Level, code: str, message: str, where: Where | None = None) -> None:
        """Adds a note, once."""
        note = Diagnostic(level, code, message, where)
        if note not in self.notes:
            self.notes.append(note)

    def refuse(self, message: str, legal: Sequence[object] = (), where: Where | None = None) -> None:
        """The engine would not start; also an error note, which carries the place."""
        self.note("error", "refused", message, where)
        if self.refused is None:
            self.refused = Refusal(message, tuple(legal), where)

    def open(self, field_name: str, variables: Sequence[str], where: Where | None = None) -> None:
        """A size depends on variables and stays open."""
        names = ", ".join(variables)
        set_words = " ".join(f"--set {shlex.quote(name + '=N')}" for name in variables)
        self.note("warning", "open", f"{field_name} depends on {names} and stays open; {set_words} gives it", where)
        self.variables += [name for name in variables if name not in self.variables]

    def finish(self, sizes: Sizes | None, *, name: str = "", role: Literal["", "prefill", "decode"] = "") -> Reading:
        """The reading; sizes that no world can have become a refusal."""
        layout = None
        if sizes is not None and self.refused is None:
            try:
                layout = sizes.build()
            except LayoutError as error:
                self.refuse(str(error), error.legal)
        return Reading(
            dialect=self.dialect,
            layout=layout,
            sizes=sizes,
            name=name or role or self.document.name,
            role=role,
            options=self.options,
            notes=tuple(self.notes),
            refused=self.refused,
            variables=tuple(self.variables),
            experts=(sizes.num_experts if sizes.moe else 0) if sizes else None,
            node=self.node,
            place=self.document.program[0].where if self.document.program else None,
        )
