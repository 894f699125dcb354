"""From a pasted text to documents: engine commands out of scripts, wrappers, prompts and heredocs. Knows no flags.

A program is recognized by the words it starts with, wherever they stand in a command: everything before them is a
wrapper (mpirun, srun, docker run, nohup ...), a script handed to a shell is read in turn.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from weft.dialects.base import Document, File, Note, Where, Word
from weft.dialects.expand import ASSIGNMENT, Scope
from weft.dialects.manifests import manifest_commands
from weft.dialects.shell import lex
from weft.dialects.shell_words import RawCommand

Programs = Mapping[str, Sequence[Sequence[str]]]
Origin = tuple[int, int]
"""Lines above a script, and columns left of its first line."""

_FLAG = re.compile(r"[-\u2013\u2014\u2212]{1,2}[A-Za-z]")
_ROOT_PROMPT = re.compile(r"(?m)^([ \t]*)#(?=[ \t]+[\w./])")
_SCRIPT_DEPTH = 3
_STRING = r"(?:\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')"
_LIST = re.compile(rf"\[\s*{_STRING}(?:\s*,\s*{_STRING})+\s*,?\s*\]")
_STARTS = re.compile(
    r"[\"'](?:(?:[\w/.-]*/)?(?:vllm|tokenspeed|sglang|trtllm-serve)|[\w.]+\.(?:launch_server|api_server))[\"']"
)
_SCRIPT = re.compile(r"\s")
_DECLARES = {"export", "declare", "readonly", "local", "typeset", "set", "ENV", "setenv"}
_SHOWS = re.compile(r"cat|tee|echo|printf")


def documents(text: str, programs: Programs, settings: Mapping[str, str]) -> list[Document]:
    """Commands of a text in order. Those of no known program are kept where they have flags, as fragments."""
    found = _Reader(programs, settings).manifest(text)
    text = _LIST.sub(_joined, text)
    found = found or _Reader(programs, settings).script(text)
    if any(document.dialect for document in found):
        return found
    plain = _ROOT_PROMPT.sub(r"\1 ", text)
    again = _Reader(programs, settings).script(plain) if plain != text else []
    return again if any(document.dialect for document in again) else found


def _joined(match: re.Match[str]) -> str:
    """A list of a program's words, as a Dockerfile or a Python script has it, as a line of shell."""
    if not _STARTS.search(match[0]):
        return match[0]
    strings = (re.sub(r"\\(.)", r"\1", string[1:-1]) for string in re.findall(_STRING, match[0]))
    return shlex.join(strings) + " ;"


class _Reader:
    def __init__(self, programs: Programs, settings: Mapping[str, str]) -> None:
        self.programs = [
            (rank, name, [re.compile(pattern) for pattern in words])
            for name, each in programs.items()
            for rank, words in enumerate(each)
        ]
        self.scope = Scope(settings)
        self.files: dict[str, File] = {}
        self.found: list[Document] = []

    def manifest(self, text: str) -> list[Document]:
        """Containers of a Kubernetes or compose file."""
        for container in manifest_commands(text):
            self.scope.notes = []
            for name, word in container.environment.items():
                self.scope.assign(name, (word,))
            words = [part for raw in container.words for part in self.scope.expand(raw)]
            notes = (*container.notes, *self.scope.notes)
            self._command(words, dict(container.environment), container.name, notes, text, 0)
        return self._shared()

    def script(self, text: str) -> list[Document]:
        """Commands of a shell script."""
        self._lines(text, 0, (0, 0))
        return self._shared()

    def _shared(self) -> list[Document]:
        """A file may be written after the command that names it, on a page."""
        return [replace(document, files=dict(self.files)) for document in self.found]

    def _lines(self, text: str, depth: int, origin: Origin) -> None:
        for raw in glued(lex(text)):
            self.scope.notes = []
            words = self._moved([part for word in raw.words for part in self.scope.expand(word)], origin)
            environment = self._assignments(words)
            words = words[len(environment) :] if len(environment) < len(words) else []
            if raw.end == ")" and environment:
                self.scope.assign(next(iter(environment)), tuple(words), raw.words[0].literal.endswith("+="))
                continue
            if not words or words[0].text in _DECLARES:
                self._export(environment, words)
                continue
            self._file(raw, words, depth, origin[0])
            known = {**self.scope.exported, **environment}
            notes = tuple(_moved_note(note, origin) for note in (*raw.notes, *self.scope.notes))
            self._command(words, known, raw.comment, notes, text, depth)

    def _assignments(self, words: Sequence[Word]) -> dict[str, Word]:
        """Leading NAME=value words."""
        found: dict[str, Word] = {}
        for word in words:
            match = None if word.quoted else ASSIGNMENT.match(word.text)
            if match is None:
                break
            found[match[1]] = replace(word, text=word.text[match.end() :])
        return found

    def _export(self, environment: Mapping[str, Word], words: Sequence[Word]) -> None:
        for name, word in environment.items():
            self.scope.assign(name, (word,))
        for word in words[1:]:
            match = ASSIGNMENT.match(word.text)
            if match:
                value = replace(word, text=word.text[match.end() :])
                self.scope.assign(match[1], (value,))
                self.scope.exported[match[1]] = value

    def _moved(self, words: list[Word], origin: Origin) -> list[Word]:
        if origin == (0, 0):
            return words
        return [replace(word, where=_moved_where(word.where, origin)) for word in words]

    def _file(self, raw: RawCommand, words: Sequence[Word], depth: int, line: int) -> None:
        """Files written by a heredoc, echo or printf; a heredoc fed to a shell is a script."""
        target = next((word for mark, word in raw.redirects if mark in (">", ">>", ">|") and word), None)
        name = "".join(part.text for part in self.scope.expand(target)) if target else ""
        if not name and words[0].text == "tee":
            name = next((word.text for word in words[1:] if not word.text.startswith("-")), "")
        if not _SHOWS.fullmatch(words[0].text):
            if raw.heredoc and depth < _SCRIPT_DEPTH:
                self._lines(raw.heredoc[0], depth + 1, (line + raw.heredoc[1] - 1, 0))
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
            shown = [word.text for word in words[1:] if word.text not in ("-e", "-n")]
            body = " ".join(shown).replace("\\n", "\n")
            kept = self.files[name].text + "\n" if name in self.files and raw.redirects[0][0] == ">>" else ""
            self._write(name, kept + body, words[0].where.line, depth)

    def _write(self, name: str, body: str, line: int, depth: int) -> None:
        self.files[name] = File(body, line)
        if name.endswith(".sh") and depth < _SCRIPT_DEPTH:
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
        notes: tuple[Note, ...],
        text: str,
        depth: int,
    ) -> None:
        at = self._program(words)
        if at is not None and _is_image(words, at):
            if self._scripts(words[at[2] :], name, notes, depth):
                return
            at = at if any(_FLAG.match(word.text) for word in words[at[2] :]) else None  # docker pull, FROM
        if at is not None:
            dialect, start, end = at
            environment |= self._wrapped_environment(words[:start])
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
        elif not self._scripts(words, name, notes, depth) and any(_FLAG.match(word.text) for word in words):
            self.found.append(
                Document(kind="command", text=text, name=name, words=tuple(words), environment=environment, notes=notes)
            )

    def _scripts(self, words: Sequence[Word], name: str, notes: tuple[Note, ...], depth: int) -> bool:
        """Reads the words that are scripts of their own; whether one of them holds a command."""
        before = len(self.found)
        if depth < _SCRIPT_DEPTH:
            for script in _script_words(words):
                self.scope.exported |= self._wrapped_environment(words)
                column = script.where.column - 1 + script.quoted
                self._lines(script.text, depth + 1, (script.where.line - 1, column))
        self.found[before:] = [
            replace(each, name=each.name or name, notes=(*notes, *each.notes), wrapper=(*words, *each.wrapper))
            for each in self.found[before:]
            if each.dialect
        ]
        return len(self.found) > before

    def _wrapped_environment(self, words: Iterable[Word]) -> dict[str, Word]:
        """NAME=value words of a wrapper: env A=1, docker run -e A=1, --env=A=1."""
        found = {}
        for word in words:
            match = ASSIGNMENT.match(re.sub(r"^(?:--env=|-e(?=[A-Z]))", "", word.text))
            if match and match[1].isupper():
                found[match[1]] = replace(word, text=match.string[match.end() :])
        return found

    def _program(self, words: Sequence[Word]) -> tuple[str, int, int] | None:
        """(dialect, first word, first argument) of the program; the surest pattern wins, then the first place."""
        best: tuple[int, int, str, int] | None = None
        for start in range(len(words)):
            for rank, name, patterns in self.programs:
                end = start + len(patterns)
                if best is not None and (rank, start) >= best[:2] or end > len(words):
                    continue
                if all(pattern.fullmatch(word.text) for pattern, word in zip(patterns, words[start:end], strict=True)):
                    best = (rank, start, name, end)
        return (best[2], best[1], best[3]) if best else None


def glued(commands: Iterable[RawCommand]) -> list[RawCommand]:
    """Lines that start with a flag belong to the command above: a backslash is missing or stands in a comment."""
    found: list[RawCommand] = []
    for command in commands:
        before = found[-1] if found else None
        if before is None or not _continues(before, command):
            found.append(command)
            continue
        if len(before.words) > 1 and before.words[-1].literal in ("^", "`"):
            before.words.pop()  # how other shells continue a line
        why = "a comment ends" if before.commented else "no backslash continues"
        code = "continuation-comment" if before.commented else "continuation-missing"
        place = command.words[0].where
        message = f"{why} the command above, so a shell would not pass this line on; read as a continuation"
        before.notes += [Note("warning", code, message, place), *command.notes]
        before.words += command.words
        before.redirects += command.redirects
        before.end, before.commented = command.end, command.commented
    return found


def _continues(before: RawCommand, command: RawCommand) -> bool:
    if before.end != "\n" or command.blank_before or not command.words or not before.words:
        return False
    if not _FLAG.match(command.words[0].literal) or before.heredoc:
        return False
    fragment = bool(_FLAG.match(before.words[0].literal))
    return not (fragment and command.comment)


def _is_image(words: Sequence[Word], at: tuple[str, int, int]) -> bool:
    """Whether the program is a container's image: a shell may follow that starts something else."""
    return at[2] - at[1] == 1 and ("/" in words[at[1]].text or ":" in words[at[1]].text)


def _script_words(words: Sequence[Word]) -> Iterable[Word]:
    """Words that are scripts of their own: bash -c '...', ssh host '...', --wrap='...'."""
    for before, word in zip((None, *words), words, strict=False):
        if before is None or not _SCRIPT.search(word.text.strip()):
            continue
        assigned = re.match(r"--?[\w-]+=(?=[^{\[\s])", word.text)
        if assigned:
            column = word.where.column + assigned.end()
            yield Word(word.text[assigned.end() :], Where(word.where.line, column), quoted=word.quoted)
        elif re.fullmatch(r"-\w*c", before.text) or not word.text.startswith(("-", "{", "[")):
            yield word


def _moved_where(where: Where, origin: Origin) -> Where:
    column = origin[1] if where.line == 1 else 0
    return Where(where.line + origin[0], where.column + column, where.text)


def _moved_note(note: Note, origin: Origin) -> Note:
    return replace(note, where=_moved_where(note.where, origin)) if note.where else note
