"""All dialects by name, recognition of a text's dialect, and the steps from a pasted text to readings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module

from weft.base.errors import UsageError
from weft.base.options import nearest
from weft.parallel.layout import Layout
from weft.tools.dialects.addresses import addresses_for
from weft.tools.dialects.base import Context, Diagnostic, Dialect, Document, Draft, Reading, Written
from weft.tools.dialects.names import names
from weft.tools.dialects.nodes import compare_nodes
from weft.tools.dialects.sources.calls import calls
from weft.tools.dialects.sources.deployment import job_nodes, launch_nodes, spread
from weft.tools.dialects.sources.kubernetes.manifests import manifest_commands, manifest_files
from weft.tools.dialects.sources.shell.commands import documents
from weft.tools.dialects.sources.shell.other_scripts import as_shell
from weft.tools.dialects.sources.unsupported_programs import unsupported_reason

ALIASES = {"tensorrt-llm": "trtllm", "tensorrt_llm": "trtllm", "vllm-ascend": "vllm", "vllm_ascend": "vllm"}
_KEYED = re.compile(r"[ \t]*(?:-[ \t]+)?(?:[\"']?[\w.-]+[\"']?[ \t]*:(?:[ \t]|$)|[{}\[\]]|-[ \t]+[^-\s]|\.\.\.)")
_NO_FILE = re.compile(
    r"(?m)<<|^[ \t]*(?:-[ \t]+[\"']?)?--?[A-Za-z]"
    r"|^[ \t]*(?:-[ \t]+)?[\"']?(?:[\w-]*(?:command|cmd|script)|args|entrypoint|run)[\"']?[ \t]*:"
    r"|^[^#\n]*\b(?:(?:launch_server|api_server|trtllm-serve)\b|(?:vllm|sglang|tokenspeed) serve\b)"
)
_UNKNOWN = re.compile(r"(?:\S+=\S* )*\S+(?<!:)(?: [^\s:]+)* --?[A-Za-z][\w-]*(?:[= ]|$)")
"""A line that starts a program with flags."""
_SIZED = re.compile(r"--?(?:tp|dp|pp|ep|cp)\b|--?[\w-]*(?:parallel|nnodes|world|_size|-size)|\w+=")
"""A word that may give a size."""
_FILE_NAME = re.compile(r"^\S+\.(?:json|ya?ml|toml|sh|txt)$")
_MAIL = re.compile(r"(?m)^[ \t]*>+(?=[ \t]|$)")
_MOSTLY = 0.8
"""Share of lines that look like YAML or JSON from which a text is a file."""
UNREAD = frozenset({"unknown-flag", "unknown-key", "unknown-word", "unknown-value"})
SURE = 0.2
"""Least score at which a text without a known program is taken for a dialect's."""


def dialect(name: str) -> Dialect:
    """The dialect of that name; UsageError names the known ones."""
    canonical = ALIASES.get(name.lower(), name.lower())
    if canonical not in (known := names()):
        raise UsageError(f"unknown dialect {name}{nearest(name, known)} (dialects: {', '.join(known)})")
    found: Dialect = import_module(f"weft.tools.dialects.{canonical}").DIALECT
    return found


def recognize(text: str) -> tuple[str, float]:
    """The dialect that a text without a known program looks most like, and how sure that is (0 to 1)."""
    scores = {name: dialect(name).recognizes(text) for name in names()}
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


def read(text: str, name: str | None = None, context: Context | None = None) -> list[Reading]:
    """Every engine that a text describes, in its order; several nodes' commands become one reading.

    `name` is the dialect, or None to recognize it. Raises UsageError when no dialect is recognized; what is wrong
    inside a recognized text is in the readings.
    """
    context = context or Context()
    text = as_shell(_unquoted(text))
    named = dialect(name).name if name is not None else None
    programs = {each: dialect(each).programs for each in names()}
    found = [] if _is_file(text) else documents(text, programs, context.settings)
    commands = [document for document in found if document.dialect] or calls(text)
    commands = [document for document in commands if document.dialect == named] or commands
    commands = commands or _held_files(text, named)
    if not commands:
        commands = _without_program(text, found, named)
    readings = compare_nodes(_engines([reading for each in commands for reading in _read_one(each, named, context)]))
    if len(readings) != 1:
        return readings
    return [spread(readings[0], job_nodes(text))]


def _engines(readings: list[Reading]) -> list[Reading]:
    """Without what only spreads requests over servers, where the commands of the servers are in the text too."""

    def starts(reading: Reading) -> bool:
        sizes = reading.sizes
        return sizes is None or sizes.moe or bool(reading.variables) or (sizes.tp, sizes.dp) != (None, None)

    found = [reading for reading in readings if starts(reading)] or readings
    one_file = all(reading.role for reading in found)  # of both sides, without the sizes of one
    return readings if one_file else found


def read_words(words: Sequence[str], name: str | None = None, context: Context | None = None) -> list[Reading]:
    """As `read`, for words that a shell has already parsed. A single word may be a file's name, or a whole text: a
    command, several, or a part of a file."""
    if len(words) > 1:
        return read(shlex.join(words), name, context)
    reads = context.read_file if context is not None and _FILE_NAME.search(words[0]) else None
    held = reads(words[0]) if reads is not None else None
    return read(words[0] if held is None else held, name, context)


def write(layout: Layout, name: str, options: Mapping[str, object], source: str = "") -> Written:
    """The command or file of an engine for a layout; `source` is the dialect that the options come from."""
    target = dialect(name)
    if target.name == source:
        return target.write(layout, options, source)
    given, notes = addresses_for(options, target.name, layout.nodes, layout.attention.dp)
    written = target.write(layout, given, source)
    return replace(written, notes=(*notes, *written.notes))


def _without_program(text: str, found: list[Document], named: str | None) -> list[Document]:
    """Fragments: a file's text, or arguments without their command."""
    reason = unsupported_reason(text)
    if reason is not None:
        raise UsageError(reason)
    arguments = [document for document in found if document.fragment and _is_arguments(document)]
    guessed, score = (named, 1.0) if named else recognize(text)
    if score < SURE:
        raise UsageError(f"this looks like no engine's command or file; --from says whose it is ({', '.join(names())})")
    if arguments and (not _is_mapping(text) or manifest_commands(text)):
        if named is None and dialect(guessed).programs:
            _refuse_launcher(arguments)
        return arguments
    return [Document(kind="file", text=text, dialect=guessed)]


def _refuse_launcher(arguments: Sequence[Document]) -> None:
    """UsageError for programs that are no engine's and get no size: what they start stands somewhere else."""
    started = [document.words[0].text for document in arguments if not document.words[0].text.startswith("-")]
    words = [word.text for document in arguments for word in document.words]
    if started and len(started) == len(arguments) and not any(map(_SIZED.match, words)):
        raise UsageError(
            f"{started[0]!r} is no engine's command and is given no size; give the command that it starts, or --from "
            f"with its arguments ({', '.join(names())})"
        )


def _held_files(text: str, named: str | None) -> list[Document]:
    """Engines' own files that a ConfigMap holds, where no command names them; those of `named`, if any is one."""
    found = []
    for name, file in manifest_files(text).items():
        owner, score = recognize(file.text)
        if score >= SURE and named in (None, owner):
            found.append(Document(kind="file", text=file.text, name=name, line=file.line, dialect=owner))
    return found


def _unquoted(text: str) -> str:
    """A text that a mail or a page quotes with > in front of every line, in its old columns."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not all(_MAIL.match(line) for line in lines):
        return text
    return re.sub(_MAIL, lambda match: " " * len(match[0]), text)


def _is_file(text: str) -> bool:
    """Whether a text is YAML or JSON through and through, so that no line of it is a command."""
    if _NO_FILE.search(text):
        return False
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//", "```"))]
    return bool(lines) and sum(_KEYED.match(line) is not None for line in lines) >= _MOSTLY * len(lines)


def _is_arguments(document: Document) -> bool:
    return any(word.text.startswith("-") and not word.quoted for word in document.words)


def _is_mapping(text: str) -> bool:
    """Whether a text is YAML or JSON rather than arguments, alone or after an unknown program."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines or lines[0].startswith("--") or _UNKNOWN.match(lines[0]):
        return False
    return any(_KEYED.match(line) for line in lines)


def _read_one(document: Document, named: str | None, context: Context) -> list[Reading]:
    name = named or document.dialect or recognize(document.text)[0]
    if document.dialect and document.dialect != name:
        draft = Draft(name, document, context)
        place = document.program[0].where if document.program else None
        what, theirs, ours = document.kind, dialect(document.dialect).title, dialect(name).title
        message = f"this is a {what} of {theirs}, not of {ours}; --from {document.dialect} reads it"
        draft.refuse(message, (document.dialect,), place)
        return [draft.finish(None)]
    nodes = document.nodes or launch_nodes(document.wrapper)
    return [spread(reading, nodes) for reading in dialect(name).read(document, context)]


def unread(readings: Sequence[Reading]) -> tuple[Diagnostic, ...]:
    """Notes about words that were not understood; --strict makes errors of them."""
    return tuple(note for reading in readings for note in reading.notes if note.code in UNREAD)
