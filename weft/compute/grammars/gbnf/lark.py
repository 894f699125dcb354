"""GBNF's rules in the grammar library's words, exactly.

The library has a lexer, which takes the longest match; GBNF has none. So each character and class is written as a
terminal of one character, and the library's parser decides alone. A run of characters stays one terminal, which is much
faster, where nothing else in the grammar begins with what it takes in. A rule that ends with itself becomes a
repetition: the parser would remember every time that it came by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from weft.compute.grammars.gbnf.grammar import (
    CharacterSet,
    Either,
    GbnfError,
    Node,
    Repeat,
    Rule,
    Sequence,
    Token,
    rules_of,
)
from weft.compute.grammars.gbnf.recursion import ending, finite_rules, names, without_tails

ROOT = "root"


@dataclass(frozen=True, slots=True)
class LarkRules:
    """`text`: rules in Lark, `start` first. `by_character`: how many runs are written character by character."""

    text: str
    by_character: int


def lark_of_gbnf(text: str, added: Mapping[str, int], prefix: str = "") -> LarkRules:
    """`added`: ids of tokens by their text. `prefix`: of the names of its rules. GbnfError: it is no GBNF, refers to
    what there is not, or allows no text."""
    rules = rules_of(text)
    if ROOT not in rules:
        raise GbnfError(f"there is no rule {ROOT!r}, with which a text begins")
    for name, rule in rules.items():
        for used in names(rule):
            if used not in rules:
                raise GbnfError(f"the rule {name!r} needs {used!r}, which there is not")
    finite = finite_rules(rules)
    if ROOT not in finite:
        raise GbnfError(f"no text of {ROOT!r} ever ends")
    return _Writer(
        without_tails({name: ending(rule, finite) for name, rule in finite.items()}), added, prefix
    ).written()


@dataclass(frozen=True, slots=True)
class _Run:
    """CharacterSet that may be one terminal: a literal, or a class again and again."""

    nodes: tuple[CharacterSet, ...]
    least: int = 1
    most: int | None = 1

    @property
    def taken(self) -> CharacterSet:
        """What it may begin with: of a class, also what it goes on with."""
        return self.nodes[0]


@dataclass(slots=True)
class _Writer:
    rules: Mapping[str, Either]
    added: Mapping[str, int]
    prefix: str
    numbers: dict[str, int] = field(default_factory=dict)
    by_character: int = 0
    _split: set[_Run] = field(default_factory=set)

    def written(self) -> LarkRules:
        """Rules that `root` needs."""
        waiting, known = [ROOT], {ROOT}
        while waiting:
            further = names(self.rules[waiting.pop()]) - known
            known |= further
            waiting += sorted(further)
        self.numbers = {name: number for number, name in enumerate(name for name in self.rules if name in known)}
        runs = [run for name in self.numbers for run in self._runs(self.rules[name])]
        in_a_row = _Neighbours({name: self.rules[name] for name in self.numbers}).in_a_row()
        self._split = _split([*dict.fromkeys(runs)], in_a_row)
        lines = [f"{self.prefix}r{number}: {self._either(self.rules[name])}" for name, number in self.numbers.items()]
        return LarkRules(
            "\n".join([f"{self.prefix}start: {self.prefix}r{self.numbers[ROOT]}", *lines]), self.by_character
        )

    def _runs(self, node: Node) -> Iterator[_Run]:
        match node:
            case Either(sequences):
                for sequence in sequences:
                    for part in _parts(sequence):
                        yield from [part] if isinstance(part, _Run) else self._runs(part)
            case Repeat(inner, _, _):
                yield from self._runs(Either(((inner,),)))

    def _either(self, rule: Either) -> str:
        return " | ".join(self._sequence(sequence) for sequence in rule.sequences)

    def _sequence(self, sequence: Sequence) -> str:
        return " ".join(map(self._part, _parts(sequence))) or '""'

    def _part(self, part: Node | _Run) -> str:
        match part:
            case _Run():
                return self._run(part)
            case Rule(name):
                return f"{self.prefix}r{self.numbers[name]}"
            case Repeat(inner, least, most):
                return f"({self._sequence((inner,))}){_times(least, most)}"
            case Either():
                return f"({self._either(part)})"
            case Token(id, text):
                return f"<[{self._id(id, text)}]>"
        raise AssertionError(part)

    def _id(self, id: int | None, text: str) -> int:
        found = id if id is not None else self.added.get(text)
        if found is None or found not in self.added.values():
            raise GbnfError(f"{text or f'<[{id}]>'} is no added token of this model")
        return found

    def _run(self, run: _Run) -> str:
        if run not in self._split:
            body = "".join(map(_regex, run.nodes))
            times = _times(max(run.least, 1), run.most)
            return f"/{body}{times}/" + ("?" if run.least == 0 else "")
        self.by_character += len(run.nodes) > 1 or run.most != 1
        each = " ".join(_terminal(node) for node in run.nodes)
        return each if (run.least, run.most) == (1, 1) else f"{each}{_times(run.least, run.most)}"


def _split(runs: list[_Run], in_a_row: set[_Run]) -> set[_Run]:
    """Runs that are written character by character: something else begins with what they take in. Each character of
    such a run is then something else for others."""
    split = set(in_a_row)
    while True:
        heads = [(run, node) for run in runs for node in (run.nodes if run in split else [run.taken])]
        more = {
            run
            for run in runs
            if run not in split and any(other != run and _meet(run.taken, node) for other, node in heads)
        }
        if not more:
            return split
        split |= more


_Edges = tuple[bool, frozenset[_Run], frozenset[_Run]]
"""Whether it may be no text; the repeating classes that a text of it may begin and end with."""


class _Neighbours:
    """Which repeating classes stand beside each other, over all rules."""

    def __init__(self, rules: dict[str, Either]) -> None:
        self._rules = rules
        self._known: dict[str, _Edges] = dict.fromkeys(rules, (False, frozenset(), frozenset()))
        self._found: set[_Run] = set()

    def in_a_row(self) -> set[_Run]:
        """Those that may follow themselves."""
        before = None
        while before != self._known:
            before = dict(self._known)
            for name in reversed(self._rules):
                self._known[name] = self._edges(self._rules[name])
        return self._found

    def _edges(self, part: Node | _Run) -> _Edges:
        match part:
            case _Run():
                own = frozenset([part] if part.most != 1 else [])
                return part.least == 0, own, own
            case Rule(name):
                return self._known[name]
            case Repeat(inner, least, most):
                nullable, firsts, lasts = self._sequence((inner,))
                self._found |= lasts & firsts if most != 1 else frozenset()
                return nullable or least == 0, firsts, lasts
            case Either(sequences):
                each = [self._sequence(sequence) for sequence in sequences]
                none = frozenset[_Run]()
                return any(one[0] for one in each), none.union(*(e[1] for e in each)), none.union(*(e[2] for e in each))
        return False, frozenset(), frozenset()

    def _sequence(self, sequence: Sequence) -> _Edges:
        nullable, firsts, lasts = True, frozenset[_Run](), frozenset[_Run]()
        for part in _parts(sequence):
            empty, begins, ends = self._edges(part)
            self._found |= lasts & begins
            firsts |= begins if nullable else frozenset()
            lasts = ends | (lasts if empty else frozenset())
            nullable = nullable and empty
        return nullable, firsts, lasts


def _parts(sequence: Sequence) -> list[Node | _Run]:
    """A sequence with its characters as runs."""
    made: list[Node | _Run] = []
    for node in _flat(sequence):
        last = made[-1] if made else None
        match node:
            case CharacterSet():
                literal = (
                    isinstance(last, _Run)
                    and (last.least, last.most) == (1, 1)
                    and _single(node)
                    and _single(last.nodes[-1])
                )
                if literal and isinstance(last, _Run):
                    made[-1] = _Run((*last.nodes, node))
                else:
                    made.append(_Run((node,)))
            case Repeat(CharacterSet() as inner, least, most):
                made.append(_Run((inner,), least, most))
            case _:
                made.append(node)
    return made


def _flat(sequence: Sequence) -> Iterator[Node]:
    """Groups of one sequence are no groups."""
    for node in sequence:
        if isinstance(node, Either) and len(node.sequences) == 1:
            yield from _flat(node.sequences[0])
        elif isinstance(node, Repeat) and isinstance(node.node, Either):
            inner = [*_flat((node.node,))]
            yield Repeat(inner[0], node.least, node.most) if len(inner) == 1 else node
        else:
            yield node


def _single(node: CharacterSet) -> bool:
    return len(node.ranges) == 1 and node.ranges[0][0] == node.ranges[0][1]


def _meet(one: CharacterSet, other: CharacterSet) -> bool:
    return any(first <= end and begin <= last for first, last in one.ranges for begin, end in other.ranges)


def _times(least: int, most: int | None) -> str:
    if (least, most) in ((0, None), (1, None), (0, 1), (1, 1)):
        return {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}[least, most]
    return f"{{{least},{'' if most is None else most}}}"


def _terminal(node: CharacterSet) -> str:
    return json.dumps(chr(node.ranges[0][0])) if _single(node) else f"/{_regex(node)}/"


def _regex(node: CharacterSet) -> str:
    ranges = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in node.ranges)
    return f"\\x{{{node.ranges[0][0]:x}}}" if _single(node) else f"[{ranges}]"
