"""Parts of commands: lines that belong together, images, words that are scripts, places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from weft.tools.dialects.base import Diagnostic, Document, Where, Word
from weft.tools.dialects.sources.shell.expand import ASSIGNMENT
from weft.tools.dialects.sources.shell.words import RawCommand

Origin = tuple[int, int]
"""Lines above a script, and columns left of its first line."""
Pattern = tuple[int, str, list[re.Pattern[str]]]
"""How sure a program's words are (0: the surest), its dialect, one pattern for each word."""
FLAG = re.compile(r"[-\u2013\u2014\u2212]{1,2}[A-Za-z]")
SHOWS = re.compile(r"cat|tee|echo|printf")
"""Commands that show or write a text."""
SCRIPT_FILE = re.compile(r"[^:\s]*\.sh")
_PYTHON = re.compile(r"(?:.*/)?python[\d.]*")
_SCRIPT = re.compile(r"\s")
_BARE_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_SENTENCE = re.compile(r"[A-Za-z][a-z_']*[,:]?")
_TESTS = re.compile(r"(?:.*/)?(?:pytest|py\.test)")
_RUNNERS = frozenset(
    """
nohup sudo env exec time timeout srun mpirun mpiexec docker podman nerdctl singularity apptainer enroot uv uvx poetry
pipenv pixi python python3 numactl taskset setsid nice ionice tmux screen ssh bash sh zsh command xargs conda mamba
micromamba kubectl oc torchrun nsys watch stdbuf unbuffer chrt systemd-run runuser su doas eval cd gdb perf strace
accelerate ray start run cmd lm_eval
""".split()
)
"""Programs that start others, which stand in front of a command."""
_KEYWORDS = frozenset({"then", "else", "elif", "do", "if", "while", "until", "{", "!"})


def without_keywords(words: list[Word]) -> list[Word]:
    """A command without the shell's keywords in front of it."""
    first = next((at for at, word in enumerate(words) if word.quoted or word.text not in _KEYWORDS), len(words))
    return words[first:]


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
        before.notes += [Diagnostic("warning", code, message, place), *command.notes]
        before.words += command.words
        before.redirects += command.redirects
        before.end, before.commented = command.end, command.commented
    return found


def _continues(before: RawCommand, command: RawCommand) -> bool:
    if before.end != "\n" or command.blank_before or not command.words or not before.words:
        return False
    if before.heredoc or not (FLAG.match(command.words[0].literal) or _is_value(before, command)):
        return False
    fragment = bool(FLAG.match(before.words[0].literal))
    return not (fragment and command.comment)


def _is_value(before: RawCommand, command: RawCommand) -> bool:
    """Whether a line is one quoted word or mapping, and the flag that wants it ends the line above."""
    value = command.words[0].quoted or command.words[0].literal.startswith(("{", "["))
    return value and len(before.words) > 1 and bool(_BARE_FLAG.fullmatch(before.words[-1].literal))


def without_prose(documents: Sequence[Document]) -> list[Document]:
    """Commands without sentences about them, and without those that are shown (echo "$CMD") where they are run."""
    plain = [each for each in documents if each.dialect and not _is_prose(each)]
    return _without_echoes([each for each in documents if not each.dialect or each in plain] if plain else documents)


def _is_prose(document: Document) -> bool:
    """'We start vllm serve on every node.', pytest -m vllm: a program's name among words that start something else."""
    if any(_TESTS.fullmatch(word.text) for word in document.wrapper):
        return True
    if any(FLAG.match(word.text) for word in document.words) or is_image(document.program, (document.dialect, 0, 1)):
        return False
    if document.words and all(word.text in ("...", "\u2026") for word in document.words):
        return True
    first = document.wrapper[0].text if document.wrapper else ""
    return len(document.words) > 2 or bool(_SENTENCE.fullmatch(first)) and first not in _RUNNERS


def _without_echoes(documents: Sequence[Document]) -> list[Document]:

    def said(document: Document) -> tuple[str, ...]:
        return (document.dialect, *(word.text for word in document.words))

    shown = [bool(each.wrapper and SHOWS.fullmatch(each.wrapper[0].text)) for each in documents]
    run = {said(each) for each, only in zip(documents, shown, strict=True) if not only}
    kept = [each for each, only in zip(documents, shown, strict=True) if not only or said(each) not in run]
    return list({_identity(each): each for each in reversed(kept)}.values())[::-1]


def _identity(document: Document) -> object:
    """What two branches of a script have in common that start one engine by two of its commands."""
    if document.fragment or not document.words:
        return id(document)
    around = tuple(word.text for word in document.wrapper if not _PYTHON.fullmatch(word.text))
    environment = tuple(sorted((name, word.text) for name, word in document.environment.items()))
    return document.dialect, around, tuple(word.text for word in document.words), environment, document.nodes


def is_image(words: Sequence[Word], at: tuple[str, int, int]) -> bool:
    """Whether the program is a container's image: a shell may follow that starts something else."""
    return at[2] - at[1] == 1 and ("/" in words[at[1]].text or ":" in words[at[1]].text)


def is_script(word: Word) -> bool:
    """Whether a word is a line of shell."""
    return _SCRIPT.search(word.text.strip()) is not None


def script_words(words: Sequence[Word]) -> Iterable[Word]:
    """Words that are scripts of their own: bash -c '...', ssh host '...', --wrap='...'."""
    for before, word in zip((None, *words), words, strict=False):
        if not _SCRIPT.search(word.text.strip()) or before is None and not word.quoted:
            continue
        assigned = re.match(r"--?[\w-]+=(?=[^{\[\s])", word.text)
        if assigned:
            column = word.where.column + assigned.end()
            yield Word(word.text[assigned.end() :], Where(word.where.line, column), quoted=word.quoted)
        elif before is not None and re.fullmatch(r"-\w*c", before.text) or not word.text.startswith(("-", "{", "[")):
            yield word


def wrapped_environment(words: Iterable[Word]) -> dict[str, Word]:
    """NAME=value words of a wrapper: env A=1, docker run -e A=1, --env=A=1."""
    found = {}
    for word in words:
        match = ASSIGNMENT.match(re.sub(r"^(?:--env=|-e(?=[A-Z]))", "", word.text))
        if match and match[1].isupper():
            found[match[1]] = replace(word, text=match.string[match.end() :])
    return found


def find_program(words: Sequence[Word], programs: Sequence[Pattern]) -> tuple[str, int, int] | None:
    """(dialect, first word, first argument) of the program; the surest pattern wins, then the first place."""
    best: tuple[int, int, str, int] | None = None
    for start in range(len(words)):
        for rank, name, patterns in programs:
            end = start + len(patterns)
            if best is not None and (rank, start) >= best[:2] or end > len(words):
                continue
            if all(pattern.fullmatch(word.text) for pattern, word in zip(patterns, words[start:end], strict=True)):
                best = (rank, start, name, end)
    return (best[2], best[1], best[3]) if best else None


def printed(words: Sequence[str]) -> str:
    """What echo or printf writes; a format is used again until its words are."""
    first, *rest = words or [""]
    if "%s" in first:
        count = first.count("%s")
        parts = [rest[at : at + count] for at in range(0, len(rest), count)] or [[]]
        first, rest = "".join(_filled(first, part) for part in parts), []
    return " ".join((first, *rest)).replace("\\n", "\n")


def _filled(form: str, words: Sequence[str]) -> str:
    for word in words:
        form = form.replace("%s", word, 1)
    return form.replace("%s", "")


def moved_where(where: Where, origin: Origin) -> Where:
    column = origin[1] if where.line == 1 else 0
    return Where(where.line + origin[0], where.column + column, where.text)


def moved_note(note: Diagnostic, origin: Origin) -> Diagnostic:
    return replace(note, where=moved_where(note.where, origin)) if note.where else note
