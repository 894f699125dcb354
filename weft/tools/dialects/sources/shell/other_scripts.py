"""Texts of other kinds as lines of shell: Makefiles, batch files, containers as units, code inside sentences.

Every line keeps its number.
"""

from __future__ import annotations

import re

_MAKE = re.compile(r"(?m)^[A-Za-z_]\w*[ \t]*(?:\?|::?)=")
_ASSIGNED = re.compile(r"(?m)^(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*(\?|::?)?=[ \t]*([^\n#]*?)[ \t]*(?:#[^\n]*)?$")
_RECIPE = re.compile(r"(?m)^\t[@-]+")
_BATCH = re.compile(r"(?mi)^[ \t]*set[ \t]+\"?[A-Za-z_]\w*=")
_PERCENT = re.compile(r"%([A-Za-z_]\w*)%( |$)?", re.MULTILINE)
_INLINE = re.compile(r"(?m)(?<=[^\s`])([ \t]+)```([^`\n]+)```")
_IMAGE = re.compile(r"(?m)^Image=(\S+)[ \t]*$")
_EXEC = re.compile(r"(?m)^Exec=(?=-)")


def as_shell(text: str) -> str:
    """The text with what stands in it in another language as a shell would find it; other texts as they are."""
    return _inline_code(_unit(_batch(_makefile(text))))


def _makefile(text: str) -> str:
    """`TP ?= 2` as `TP=${TP:-2}`, `$(tp)` of a name that is assigned as `${tp}`."""
    if not _MAKE.search(text):
        return text
    names = {match[1] for match in _ASSIGNED.finditer(text)}
    text = _RECIPE.sub(lambda match: "\t" + " " * (len(match[0]) - 1), _ASSIGNED.sub(_assignment, text))
    return re.sub(r"\$\((\w+)\)", lambda match: f"${{{match[1]}}}" if match[1] in names else match[0], text)


def _assignment(match: re.Match[str]) -> str:
    name, how, value = match.groups()
    if how == "?":
        return f"{name}=${{{name}:-{value}}}"
    return f"{name}={value}" if re.search(r"[\"'$]", value) or not re.search(r"\s", value) else f"{name}='{value}'"


def _batch(text: str) -> str:
    """`%TP%` of a batch file as a shell's variable."""
    if not _BATCH.search(text):
        return text
    return _PERCENT.sub(lambda match: f"${match[1]}  " if match[2] else f"${{{match[1]}}}", text)


def _unit(text: str) -> str:
    """`Exec=` of a container's unit as the arguments of its image."""
    image = _IMAGE.search(text)
    return _EXEC.sub(f"{image[1]} ", text) if image else text


def _inline_code(text: str) -> str:
    """Code between three backticks in the middle of a line as code between single ones, every column in its place."""
    return _INLINE.sub(r"\1  `\2`  ", text)
