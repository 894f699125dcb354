"""From a pasted text to documents: engine commands from scripts, wrappers, prompts and heredocs.

A program is recognized by the words it starts with, wherever they stand in a command: everything before them is a
wrapper (mpirun, srun, docker run, nohup ...), a script handed to a shell is read in turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.tools.dialects.base import Diagnostic, Document, File, Where, Word
from weft.tools.dialects.sources.deployment import NODE_VARIABLES, job_variables, launch_nodes
from weft.tools.dialects.sources.kubernetes.manifests import manifest_commands, manifest_files
from weft.tools.dialects.sources.shell.command_parts import (
    FLAG,
    SCRIPT_FILE,
    SHOWS,
    Origin,
    Pattern,
    find_program,
    glued,
    is_image,
    is_script,
    moved_note,
    moved_where,
    printed,
    script_words,
    without_keywords,
    without_prose,
    wrapped_environment,
)
from weft.tools.dialects.sources.shell.expand import ASSIGNMENT, Scope
from weft.tools.dialects.sources.shell.lexer import lex
from weft.tools.dialects.sources.shell.python_lists import lists_as_shell
from weft.tools.dialects.sources.shell.words import RawCommand, RawWord, WordPart
from weft.tools.dialects.sources.unsupported_programs import harness

Programs = Mapping[str, Sequence[Sequence[str]]]

_ROOT_PROMPT = re.compile(r"(?m)^([ \t]*)#(?=[ \t]+[\w./])")
_SCRIPT_DEPTH = 3
_QUOTED = re.compile(r"(?s)(?<![\w\"'])[rfRF]{0,2}(\"\"\"|\'\'\')(.*?)\1")
"""A string of Python over several lines."""
_DECLARES = {"export", "declare", "readonly", "local", "typeset", "set", "ENV", "setenv"}
_FLAGGED = re.compile(r"\s--?[A-Za-z]")
_SHELL = re.compile(r"(?:.*/)?(?:ba|da|z)?sh")
_TELLS = FLAG
_UNIT = re.compile(r"(?:ExecStart=[-@:+!]*|command=)(?=\S)")
"""What a service manager's file has in front of a command."""


def documents(text: str, programs: Programs, settings: Mapping[str, str]) -> list[Document]:
    """Commands of a text in order. Those of no known program are kept where they have flags, as fragments."""
    found = _Reader(programs, settings).manifest(text)
    text = _QUOTED.sub(_opened, lists_as_shell(text))
    found = found or _Reader(programs, settings).script(text)
    if any(document.dialect for document in found):
        return found
    again = _Reader(programs, settings).script(_ROOT_PROMPT.sub(r"\1 ", text))
    return again if any(document.dialect for document in again) else found


def _opened(match: re.Match[str]) -> str:
    """A string of Python that holds a command, as lines of shell of the same length."""
    return f"  ;{match[2]};  " if _FLAGGED.search(match[2]) else match[0]


class _Reader:
    def __init__(self, programs: Programs, settings: Mapping[str, str]) -> None:
        self.programs: list[Pattern] = [
            (rank, name, [re.compile(pattern) for pattern in words])
            for name, each in programs.items()
            for rank, words in enumerate(each)
        ]
        self.scope = Scope(settings)
        self.files: dict[str, File] = {}
        self.found: list[Document] = []
        self._held: list[list[Word]] = []  # commands in arrays, which may be run where the text does not show it

    def manifest(self, text: str) -> list[Document]:
        """Containers of a Kubernetes or compose file."""
        self._containers(text, (0, 0))
        return self._shared()

    def _containers(self, text: str, origin: Origin) -> bool:
        """Whether the text holds containers. The image of an unknown program is none of its arguments."""
        containers = manifest_commands(text)
        if containers:
            for name, file in manifest_files(text).items():
                self.files[name] = replace(file, line=file.line + origin[0])
        for container in containers:
            before, exported = len(self.found), dict(self.scope.exported)
            self.scope.notes = []
            self.scope.exported |= container.environment
            for name, word in container.environment.items():
                self.scope.assign(name, (word,))
            words = self._moved([part for raw in container.words for part in self.scope.expand(raw)], origin)
            notes = tuple(moved_note(note, origin) for note in (*container.notes, *self.scope.notes))
            if find_program(words, self.programs) is None and not any(map(is_script, words)):
                words = words[container.image :]
            self._command(words, dict(container.environment), container.name, notes, text, 0)
            self.found[before:] = [replace(each, nodes=container.nodes) for each in self.found[before:]]
            self.scope.exported = exported
        return bool(containers)

    def script(self, text: str) -> list[Document]:
        """Commands of a shell script."""
        for name, word in job_variables(text).items():
            self.scope.assign(name, (word,))
        self._lines(text, 0, (0, 0))
        for words in [] if any(each.dialect for each in self.found) else self._held:
            self._command(words, {}, "", (), text, 0)
        return self._shared()

    def _shared(self) -> list[Document]:
        """A file may be written after the command that names it, on a page."""
        return [replace(document, files=dict(self.files)) for document in without_prose(self.found)]

    def _lines(self, text: str, depth: int, origin: Origin) -> None:
        for raw in glued(lex(text)):
            self.scope.notes = []
            self.scope.enter(raw.words[0].literal if raw.words else "")
            words = self._moved([part for word in raw.words for part in self.scope.expand(word)], origin)
            words = without_keywords(words)
            environment = self._assignments(words)
            words = words[len(environment) :] if len(environment) < len(words) else []
            if raw.end == ")" and environment:
                name = next(iter(environment))
                appends = any(word.literal.startswith(f"{name}+=") for word in raw.words)
                self.scope.assign(name, tuple(words), appends)
                self._held += [words] if find_program(words, self.programs) is not None else []
                continue
            if [word.text for word in words[:3:2]] == ["for", "in"] and len(words) == 4:
                self.scope.assign(words[1].text, (words[3],))
            if not words or words[0].text in _DECLARES:
                self._export(environment, words)
                continue
            self._file(raw, words, depth, origin[0])
            self._piped_files(raw, depth, origin[0])
            known = {**self.scope.exported, **environment}
            notes = tuple(moved_note(note, origin) for note in (*raw.notes, *self.scope.notes))
            before = len(self.found)
            self._command(words, known, raw.comment, notes, text, depth)
            if not any(each.dialect for each in self.found[before:]):
                self._substituted(raw, depth, origin)

    def _piped_files(self, raw: RawCommand, depth: int, line: int) -> None:
        """Files that a command writes while another reads them: <(printf ...)."""
        for word in raw.words:
            for piece in word.pieces:
                inner = lex(piece.text) if piece.kind == "command" and SHOWS.match(piece.text) else []
                if len(inner) == 1 and inner[0].words:
                    inner[0].redirects.insert(0, (">", RawWord(word.where, [WordPart("text", f"$({piece.text})")])))
                    shown = [part for each in inner[0].words for part in self.scope.expand(each)]
                    shown = self._moved(shown, (word.where.line - 1 + line, 0))
                    self._file(inner[0], shown, depth, word.where.line - 1 + line)

    def _substituted(self, raw: RawCommand, depth: int, origin: Origin) -> None:
        """Commands between backticks or in $( ): a page's code inside a sentence, or what a shell runs first."""
        for word in raw.words:
            for piece in word.pieces:
                if piece.kind == "command" and _FLAGGED.search(piece.text) and depth < _SCRIPT_DEPTH:
                    before = len(self.found)
                    self._lines(piece.text, depth + 1, (word.where.line - 1 + origin[0], word.where.column))
                    self.found[before:] = [each for each in self.found[before:] if each.dialect]

    def _assignments(self, words: Sequence[Word]) -> dict[str, Word]:
        """Leading NAME=value words."""
        found: dict[str, Word] = {}
        for word in words:
            match = None if word.quoted else ASSIGNMENT.match(word.text)
            if match is None or not found and len(words) > 1 and _UNIT.match(word.text):
                break
            value = replace(word, text=word.text[match.end() :])
            found[match[1]] = self.scope.appended(match[1], value) if match[2] else value
        return found

    def _export(self, environment: Mapping[str, Word], words: Sequence[Word]) -> None:
        for name, word in environment.items():
            self.scope.assign(name, (word,))
        for word in words[1:]:
            if match := ASSIGNMENT.match(word.text):
                value = replace(word, text=word.text[match.end() :])
                self.scope.assign(match[1], (value,))
                self.scope.exported[match[1]] = value

    def _moved(self, words: list[Word], origin: Origin) -> list[Word]:
        return words if origin == (0, 0) else [replace(each, where=moved_where(each.where, origin)) for each in words]

    def _file(self, raw: RawCommand, words: Sequence[Word], depth: int, line: int) -> None:
        """Files written by a heredoc, echo or printf; a heredoc fed to a shell is a script."""
        target = next((word for mark, word in raw.redirects if mark in (">", ">>", ">|") and word), None)
        name = "".join(part.text for part in self.scope.expand(target)).removeprefix("/dev/null") if target else ""
        words = words[1:] if words[0].text == "sudo" and len(words) > 1 else words
        if not name and words[0].text == "tee":
            name = next((word.text for word in words[1:] if not word.text.startswith("-")), "")
        if not SHOWS.fullmatch(words[0].text):
            if raw.heredoc:
                self._script(raw.heredoc[0], line + raw.heredoc[1] - 1, depth)
            return
        if raw.heredoc and not name and raw.end == "|":
            self._script(raw.heredoc[0], line + raw.heredoc[1] - 1, depth)
            return
        if raw.heredoc:
            body = raw.heredoc[0] if raw.heredoc[2] else self._filled(raw.heredoc[0])
            first = line + raw.heredoc[1]
            before = self.files.get(name) if raw.redirects and raw.redirects[0][0] == ">>" else None
            if before is not None:  # the lines between the two keep their places
                gap = max(not before.text.endswith("\n"), first - before.line - before.text.count("\n"))
                first, body = before.line, before.text + "\n" * gap + body
            self._write(name or words[-1].text, body, first, depth)
        elif name and words[0].text in ("echo", "printf"):
            body = printed([word.text for word in words[1:] if word.text not in ("-e", "-n", "--")])
            kept = self.files[name].text + "\n" if name in self.files and raw.redirects[0][0] == ">>" else ""
            self._write(name, kept + body, words[0].where.line, depth)

    def _script(self, text: str, line: int, depth: int) -> None:
        """What a program reads: containers for kubectl, commands for a shell. `line`: lines above it."""
        if not self._containers(text, (line, 0)) and depth < _SCRIPT_DEPTH:
            self._lines(text, depth + 1, (line, 0))

    def _write(self, name: str, body: str, line: int, depth: int) -> None:
        self.files[name] = File(body, line)
        if name.endswith((".yaml", ".yml")):
            self._containers(body, (line - 1, 0))
        elif name.endswith(".sh") and depth < _SCRIPT_DEPTH:
            self._lines(body, depth + 1, (line - 1, 0))

    def _filled(self, body: str) -> str:
        """A heredoc's text with the known variables filled in."""

        def value(match: re.Match[str]) -> str:
            found = self.scope.look_up(match[1] or match[2], Where(1, 1))
            return " ".join(word.text for word in found) if found else match[0]

        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, body)

    def _command(
        self,
        words: list[Word],
        environment: dict[str, Word],
        name: str,
        notes: tuple[Diagnostic, ...],
        text: str,
        depth: int,
    ) -> None:
        if words and len(words) > 1 and (unit := _UNIT.match(words[0].text)):
            words = [replace(words[0], text=words[0].text[unit.end() :]), *words[1:]]
        at = find_program(words, self.programs)
        started = harness(words) if at is None else None
        if at is not None and is_image(words, at):
            if self._scripts(words[at[2] :], name, notes, depth):
                return
            shell = at[2] < len(words) and _SHELL.fullmatch(words[at[2]].text)
            flags = any(FLAG.match(word.text) for word in words[at[2] :])
            flags = flags and not any(SCRIPT_FILE.fullmatch(word.text) for word in words[: min(2, at[1])])
            at = at if flags and not shell else None  # docker pull, FROM, a shell that starts something else
        if started is not None:
            self.found.append(replace(started, text=text, name=name, environment=environment, notes=notes))
        elif at is not None:
            dialect, start, end = at
            environment |= wrapped_environment(words[:start])
            self.found.append(
                Document(
                    kind="command",
                    text=text,
                    name=name,
                    line=words[start].where.line,
                    wrapper=tuple(words[:start]),
                    program=tuple(words[start:end]),
                    words=tuple(words[end:]),
                    environment=environment,
                    notes=notes,
                    dialect=dialect,
                )
            )
        elif not self._scripts(words, name, notes, depth) and any(_TELLS.match(word.text) for word in words):
            self.found.append(
                Document(kind="command", text=text, name=name, words=tuple(words), environment=environment, notes=notes)
            )

    def _scripts(self, words: Sequence[Word], name: str, notes: tuple[Diagnostic, ...], depth: int) -> bool:
        """Reads the words that are scripts of their own; whether one of them holds a command."""
        before = len(self.found)
        if depth < _SCRIPT_DEPTH:
            for script in script_words(words):
                self.scope.exported |= wrapped_environment(words)
                nodes = launch_nodes(words)
                for variable in NODE_VARIABLES if nodes is not None else ():
                    self.scope.assign(variable, (Word(str(nodes), script.where),))
                self._lines(script.text, depth + 1, (script.where.line - 1, script.where.column - 1 + script.quoted))
        self.found[before:] = [
            replace(each, name=each.name or name, notes=(*notes, *each.notes), wrapper=(*words, *each.wrapper))
            for each in self.found[before:]
            if each.dialect
        ]
        return len(self.found) > before
