"""Variables as a shell fills them in: assignments, defaults, arithmetic, arrays. What is not known stays open by name.

Nothing is ever run: the value of `$(...)` is unknown unless the user gives it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from dataclasses import replace

from weft.tools.dialects.base import Diagnostic, Where, Word
from weft.tools.dialects.sources.literals import expression
from weft.tools.dialects.sources.shell.words import RawWord, WordPart

_NAME = re.compile(r"[A-Za-z_]\w*|\d+|[@*#?!-]")
_OUTER_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[A-Za-z]\w*(?:\.\w+)+")
"""What stands in $( ) for Kubernetes and templates, before a shell sees it."""
_WITH_DEFAULT = re.compile(r"([A-Za-z_][\w.]*|\d+)(:?[-=+?])(.*)", re.DOTALL)
_DEFAULTED = re.compile(r"\$\{([A-Za-z_]\w*):?-(\d+)\}")
_ARRAY = re.compile(r"([A-Za-z_]\w*)\[[@*]\]")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_LONGEST = 100_000
"""Characters of a variable's value: a longer one stays open, as it would double with each `A="$A$A"`."""
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Scope:
    """The variables known so far. What the user set wins over what the text assigns."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.values: dict[str, tuple[Word, ...]] = {}
        self.exported: dict[str, Word] = {}
        self.notes: list[Diagnostic] = []
        self._conditions = 0
        self._doubtful: dict[str, Where] = {}
        self._branches: dict[str, list[Where]] = {}
        self._defaults: dict[str, tuple[Diagnostic, ...]] = {}

    def enter(self, word: str) -> None:
        """The first word of the next command: what stands between if and fi may never be run."""
        self._conditions = max(0, self._conditions + (word in ("if", "case")) - (word in ("fi", "esac")))

    def appended(self, name: str, word: Word) -> Word:
        """NAME+=word: the text so far and the new one."""
        before = self.values.get(name, ())
        text = " ".join(each.text for each in before) + word.text
        variables = (*(variable for each in before for variable in each.variables), *word.variables)
        return replace(word, text=text, variables=tuple(dict.fromkeys(variables)))

    def assign(self, name: str, words: tuple[Word, ...], append: bool = False) -> None:
        """NAME=word, NAME=(words), NAME+=(words)."""
        self._defaults[name] = tuple(note for note in self.notes if note.code == "variable-default")
        if not self._conditions or not words:
            self._doubtful.pop(name, None)
            self._branches.pop(name, None)
        elif name in self._branches or self._otherwise(name, words):
            places = self._branches.setdefault(name, [self.values[name][0].where])
            places.append(words[0].where)
            words = (Word(f"${name}", words[0].where, (name,)),)
        else:
            self._doubtful[name] = words[0].where
        words = (*self.values.get(name, ()), *words) if append else words
        if sum(len(word.text) + 1 for word in words) > _LONGEST:
            words = (Word(f"${name}", words[0].where, (name,)),)
        self.values[name] = words

    def _otherwise(self, name: str, words: tuple[Word, ...]) -> bool:
        """Whether a plain value replaces another one: a size that a condition decides."""
        old, new = (" ".join(word.text for word in each) for each in (self.values.get(name, ()), words))
        return bool(old) and old != new and " " not in new and not new.startswith((old, "-"))

    def look_up(self, name: str, where: Where) -> tuple[Word, ...] | None:
        """The words of a variable; None when it is not known."""
        if name in self.settings:
            return (Word(self.settings[name], where),)
        self.notes += [replace(note, where=where) for note in self._defaults.get(name, ())]
        if name in self._branches:
            places = " and in ".join(map(str, self._branches[name]))
            self.notes.append(
                Diagnostic("warning", "condition", f"{name} is assigned under a condition, in {places}", where)
            )
        elif name in self._doubtful:
            message = f"{name} is assigned under a condition, in {self._doubtful[name]}; read as assigned"
            self.notes.append(
                Diagnostic("warning", "condition", f"{message} (--set {name}=... gives another value)", where)
            )
        return self.values.get(name)

    def expand(self, raw: RawWord) -> list[Word]:
        """The words that a word becomes: an unquoted variable may hold several, or none."""
        words = [Word("", raw.where, quoted=raw.quoted)]
        whole = len([piece for piece in raw.pieces if piece.text or piece.kind != "text"]) == 1
        for piece in raw.pieces:
            filled = self._fill(piece, raw.where)
            if whole and piece.kind == "variable" and len(filled) > 1:
                return [Word(word.text, raw.where, word.variables) for word in filled]
            if piece.kind == "variable" and not piece.quoted and filled:
                opened = tuple(name for word in filled for name in word.variables)
                whole_text = " ".join(word.text for word in filled)
                parts = [whole_text] if opened else whole_text.split() or [""]
                joined = [Word(part, raw.where, opened) for part in parts]
                words[-1:] = [_join(words[-1], joined[0]), *joined[1:]]
                continue
            words[-1] = _join(words[-1], *filled)
        return [word for word in words if word.text or raw.quoted or any(piece.quoted for piece in raw.pieces)]

    def _fill(self, piece: WordPart, where: Where) -> tuple[Word, ...]:
        if piece.kind == "text":
            return (Word(piece.text, where),)
        if piece.kind == "command":
            if _OUTER_NAME.fullmatch(piece.text):
                return self._variable(piece.text, where)
            return self._unknown(f"$({piece.text})", where)
        if piece.kind == "arithmetic":
            return self._arithmetic(piece.text, where)
        return self._variable(piece.text, where)

    def _unknown(self, shown: str, where: Where) -> tuple[Word, ...]:
        if shown in self.settings:
            return (Word(self.settings[shown], where),)
        return (Word(shown, where, (shown,)),)

    def _variable(self, text: str, where: Where) -> tuple[Word, ...]:
        array, default = _ARRAY.fullmatch(text), _WITH_DEFAULT.fullmatch(text)
        if array:
            found = self.look_up(array[1], where)
            return found if found is not None else (Word(f"${{{text}}}", where, (array[1],)),)
        if default:
            return self._defaulted(default[1], default[2], default[3], where)
        found = self.look_up(text, where)
        if found is not None:
            return found
        name = text if _NAME.fullmatch(text) or _OUTER_NAME.fullmatch(text) else f"${{{text}}}"
        return (Word(f"${text}" if name == text else name, where, (name,)),)

    def _defaulted(self, name: str, how: str, value: str, where: Where) -> tuple[Word, ...]:
        found = self.look_up(name, where)
        if how.endswith("+"):
            return (Word(value, where),) if found is not None else ()
        if found is not None:
            return found
        if how.endswith("?"):
            return (Word(f"${name}", where, (name,)),)
        inner = re.fullmatch(r"\$\{?(\w+)\}?", value)
        if inner:
            return self._variable(inner[1], where)
        message = f"{name} is not set in the text; its default {value} was taken (--set {name}=... gives another)"
        self.notes.append(Diagnostic("info", "variable-default", message, where))
        return (Word(value.strip("'\""), where),)

    def _defaulted_number(self, match: re.Match[str], where: Where) -> str:
        """Of an empty array a shell takes the default, as of a name that is not set."""
        found = self._defaulted(match[1], ":-", match[2], where)
        return found[0].text if found else match[2]

    def _arithmetic(self, text: str, where: Where) -> tuple[Word, ...]:
        opened: list[str] = []

        def value(match: re.Match[str]) -> str:
            found = self.look_up(match[1], where)
            if found is None or len(found) != 1 or found[0].variables or not found[0].text.isdigit():
                opened.append(match[1])
                return "0"
            return found[0].text

        plain = _DEFAULTED.sub(lambda match: self._defaulted_number(match, where), text)
        filled = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\}?", value, plain)
        if opened:
            return (Word(f"$(({text}))", where, tuple(dict.fromkeys(opened))),)
        number = _calculate(filled)
        return (Word(str(number), where),) if number is not None else self._unknown(f"$(({text}))", where)


def _join(*words: Word) -> Word:
    variables = tuple(dict.fromkeys(name for word in words for name in word.variables))
    return Word("".join(word.text for word in words), words[0].where, variables, words[0].quoted)


def _calculate(text: str) -> int | None:
    """Whole-number arithmetic; None for anything else."""
    node = expression(text)
    try:
        return _value(node) if node is not None else None
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10**9:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        return int(result)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("not whole-number arithmetic")
