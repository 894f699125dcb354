"""Makefiles as lines of shell: their assignments and the variables of their recipes. Knows no engine."""

from __future__ import annotations

import re

_LOOKS = re.compile(r"(?m)^[A-Za-z_]\w*[ \t]*(?:\?|::?)=")
_ASSIGNED = re.compile(r"(?m)^(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*(\?|::?)?=[ \t]*([^\n#]*?)[ \t]*(?:#[^\n]*)?$")
_RECIPE = re.compile(r"(?m)^\t[@-]+")


def make_as_shell(text: str) -> str:
    """`TP ?= 2` as `TP=${TP:-2}`, `$(tp)` of a name that is assigned as `${tp}`; other texts as they are."""
    if not _LOOKS.search(text):
        return text
    names = {match[1] for match in _ASSIGNED.finditer(text)}
    text = _RECIPE.sub(lambda match: "\t" + " " * (len(match[0]) - 1), _ASSIGNED.sub(_assignment, text))
    return re.sub(r"\$\((\w+)\)", lambda match: f"${{{match[1]}}}" if match[1] in names else match[0], text)


def _assignment(match: re.Match[str]) -> str:
    name, how, value = match.groups()
    if how == "?":
        return f"{name}=${{{name}:-{value}}}"
    return f"{name}={value}" if re.search(r"[\"'$]", value) or not re.search(r"\s", value) else f"{name}='{value}'"
