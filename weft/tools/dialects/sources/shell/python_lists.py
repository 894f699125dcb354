"""Lists of a program's words, as Dockerfiles and Python have them, as lines of shell.

`cmd = ["vllm", "serve", NAME]` and the `cmd += [...]` after it become one command; names become variables, and a name
that is a number, a word or an environment's variable with a default becomes an assignment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_STRING = r"(?:\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')"
_NAME = r"[A-Za-z_][\w.]*(?:\[[\w\"']+\])?"
_KEYED = r"[A-Za-z_][\w.]*(?:\[[^\[\]\n]*\]|\((?:[^()\n]|\([^()\n]*\))*\))*"
_ITEM = rf"(?:f?{_STRING}|{_KEYED})"
_LIST = re.compile(
    rf"(?:(?P<name>{_NAME})\s*(?P<how>\+=|=|\.extend\()\s*)?"
    rf"\[\s*(?P<items>{_ITEM}(?:\s*,\s*{_ITEM})*)\s*,?\s*\]"
)
_STARTS = re.compile(
    r"[\"'](?:(?:[\w/.-]*/)?(?:vllm|tokenspeed|sglang|trtllm-serve)|[\w.]+\.(?:launch_server|api_server|serve))[\"']"
    r"|\[\s*[\"'](?:[\w/.-]+ ){1,3}?(?:[\w.]+\.(?:launch_server|api_server|serve)|serve)[\"' ]"
)
_FILLED = re.compile(r"\{(\w+)\}")
_FLAG = re.compile(r"--?[A-Za-z]")
_IMAGE = re.compile(r"(?m)^[ \t]*image[ \t]*=[ \t]*\"([^\"\n]+)\"")
_VARIABLE = r"os\.(?:getenv\(|environ\.get\(|environ\[)\s*[\"'](?P<variable>\w+)[\"']"
_ASSIGNED = re.compile(
    r"(?m)^(?P<indent>[ \t]*)(?P<name>[A-Za-z_]\w*)(?:[ \t]*:[ \t]*\w+)?[ \t]*=[ \t]*"
    rf"(?:(?P<number>\d+)|(?P<text>{_STRING})|(?:int|str)?\(?{_VARIABLE}(?:\s*,\s*(?P<default>\d+|{_STRING}))?\s*[\])]+)"
    r"[ \t]*(?:#[^\n]*)?$"
)
_PYTHON = re.compile(r"(?m)^[ \t]*(?:import|from|def|class)[ \t]")
_LITERAL = r"(?<!\w)[rRfF]{0,2}(?:\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
_STRINGS = re.compile(rf"{_LITERAL}(?:[ \t]*\n?[ \t]*{_LITERAL})*")
_RUNS = re.compile(r"(?:launch_server|api_server|trtllm-serve|(?:vllm|sglang|tokenspeed) serve)\b[^\"'\n]*")
"""Words of a command inside a string."""
_NEAR = 2000
"""Characters within which an image belongs to the arguments below it."""


def lists_as_shell(text: str) -> str:
    """The text with lists of a program's words as commands; every line keeps its number."""
    if _PYTHON.search(text):
        joined = _STRINGS.sub(_joined, text)
        text = joined if joined == text else _ASSIGNED.sub(_assignment, joined)
    found: dict[int, str] = {}
    opened: dict[str, int] = {}
    last = (-1, -1)  # the last command's list: where it starts, and where the last list that belongs to it ends
    for match in _LIST.finditer(text):
        words = list(_words(match["items"]))
        name, grows = match["name"] or "", match["how"] in ("+=", ".extend(")
        if grows and name in opened and words and (_FLAG.match(words[0]) or words[0].startswith("$")):
            found[opened[name]] += " " + " ".join(words)
            found[match.start()] = ""
        elif name == "args" and words and _FLAG.match(words[0]) and (image := _image(text, match.start())):
            found[match.start()] = f"{image} {' '.join(words)}"
        elif _STARTS.search(match[0]) and not grows:
            first = shlex.split(words[0])[0] if words[0].startswith("'") else words[0]  # the program in one string
            found[match.start()] = " ".join((first, *words[1:]))
            opened[name] = match.start()
            last = (match.start(), match.end())
        elif not name and last[0] >= 0 and re.fullmatch(r"\s*\]?\s*,\s*", text[last[1] : match.start()]):
            lines = [shlex.split(word)[0].strip() if word.startswith("'") else word for word in words]
            found[last[0]] += " " + " ".join(lines)
            found[match.start()] = ""
            last = (last[0], match.end())
        elif not grows:
            opened.pop(name, None)
    if not found:
        return text
    return _ASSIGNED.sub(_assignment, _LIST.sub(lambda match: _replaced(match, found.get(match.start())), text))


def _joined(match: re.Match[str]) -> str:
    """Adjacent strings that hold a command, some with names to fill in, as one quoted text of a shell."""
    parts = re.findall(rf"({_LITERAL})([ \t]*\n?[ \t]*)", match[0])
    filled = any(literal[0] in "fF" or literal[1] in "fF" for literal, _ in parts)
    if not _RUNS.search(match[0]) or not filled and len(parts) == 1:
        return match[0]
    shown = [_text(literal) + ("\\\n" if "\n" in between else "") for literal, between in parts]
    return '"' + "".join(shown) + '" ;'


def _text(literal: str) -> str:
    """A string's text for the inside of double quotes."""
    prefix = literal[: literal.index(literal[-1])]
    inner = literal[len(prefix) + 1 : -1].replace('"', '\\"' if literal[-1] == "'" else '"')
    inner = inner.replace("\\\\", " ").replace("\\n", " ")
    return _FILLED.sub(r"${\1}", re.sub(r"\{([\w.]+\.[\w.]+|\w+\[[^\]]*\])\}", r"<\1>", inner)) if prefix else inner


def _assignment(match: re.Match[str]) -> str:
    """`TP = int(os.getenv("TP_SIZE", "4"))` as `TP=${TP_SIZE:-4}`."""
    if match["variable"] is None:
        return f"{match['indent']}{match['name']}={match['number'] or match['text']}"
    default = (match["default"] or "").strip("\"'")
    known = f":-{default}" if re.fullmatch(r"[\w./@:-]+", default) else ""
    return f"{match['indent']}{match['name']}=${{{match['variable']}{known}}}"


def _image(text: str, end: int) -> str:
    """The container's image that stands closest above a list of its arguments."""
    above = _IMAGE.findall(text, max(0, end - _NEAR), end)
    return shlex.quote(above[-1]) if above else ""


def _replaced(match: re.Match[str], words: str | None) -> str:
    lines = "\n" * match[0].count("\n")
    if words is None:
        return match[0]
    return f"{words} ;{lines}" if words else lines


def _words(items: str) -> Iterator[str]:
    """The items as words of a shell: strings quoted, names as variables."""
    for item in re.findall(_ITEM, items):
        bare = re.fullmatch(r"(?:str|int)\((.*)\)", item) or re.fullmatch(rf"({_KEYED})", item)
        if bare:
            shown = re.sub(r"[\"'<>]", "", bare[1].strip())
            yield f"${{{shown}}}" if re.fullmatch(r"\w+", shown) else f"'<{shown}>'"
            continue
        text = re.sub(r"\\(.)", r"\1", item.removeprefix("f")[1:-1])
        filled = _FILLED.sub(r"${\1}", text) if item.startswith("f") else text
        yield f'"{filled}"' if filled != text else shlex.quote(text)
