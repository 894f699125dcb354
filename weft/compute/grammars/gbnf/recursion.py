"""Rules over characters made plain: those that never end are gone, and none ends with itself.

A rule that ends with itself becomes a repetition: a parser would remember every time that it came by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from weft.compute.grammars.gbnf.grammar import Either, Node, Repeat, Rule, Sequence

MOST_INLINED = 200
"""Sequences of a rule: rules that end with each other are joined up to here."""


def _nodes(rule: Either) -> Iterator[Node]:
    """All inside a rule, also in groups and repetitions."""
    waiting: list[Node] = [rule]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Either):
            waiting += chain.from_iterable(node.sequences)
        elif isinstance(node, Repeat):
            waiting.append(node.node)


def names(rule: Either) -> set[str]:
    return {node.name for node in _nodes(rule) if isinstance(node, Rule)}


def finite_rules(rules: dict[str, Either]) -> dict[str, Either]:
    """Rules of which some text ends."""
    known, before = set[str](), -1
    while before < len(known):
        before = len(known)
        for name in reversed(rules):  # rules mostly need those that stand after them
            if name not in known and _ends(rules[name], known):
                known.add(name)
    return {name: rule for name, rule in rules.items() if name in known}


def _ends(node: Node, known: set[str]) -> bool:
    match node:
        case Rule(name):
            return name in known
        case Repeat(inner, least, _):
            return least == 0 or _ends(inner, known)
        case Either(sequences):
            return any(all(_ends(each, known) for each in sequence) for sequence in sequences)
    return True


def ending(rule: Either, finite: Mapping[str, Either]) -> Either:
    """Without the sequences that never end; each node alone, where it stands for itself."""
    known = {*finite}

    def sequence(nodes: Sequence) -> Sequence:
        return tuple(inner(node) for node in nodes if not (isinstance(node, Repeat) and node.most == 0))

    def inner(node: Node) -> Node:
        if isinstance(node, Repeat):
            return Repeat(inner(node.node), node.least, node.most) if _ends(node.node, known) else Either(((),))
        return either(node) if isinstance(node, Either) else node

    def either(group: Either) -> Either:
        kept = [nodes for nodes in group.sequences if all(_ends(each, known) for each in nodes)]
        return Either(tuple(map(sequence, kept)))

    return either(rule)


def without_tails(rules: Mapping[str, Either]) -> dict[str, Either]:
    """No rule ends with itself, at once or through others that it ends with, as far as these are few."""
    made = dict(rules)
    for name in rules:
        sequences = _expanded(made[name], name, made)
        again = [nodes[:-1] for nodes in sequences if nodes[-1:] == (Rule(name),)]
        last = Either(tuple(nodes for nodes in sequences if nodes[-1:] != (Rule(name),)))
        before = tuple(nodes for nodes in again if nodes)  # what is only itself says nothing
        if again:
            made[name] = Either(((Repeat(Either(before), 0, None), last),)) if before else last
    return made


def _expanded(rule: Either, name: str, rules: Mapping[str, Either]) -> list[Sequence]:
    """The sequences of a rule; groups, options and rules at their ends are opened where they lead to `name`."""
    done: list[Sequence] = []
    waiting = [(nodes, frozenset[str]()) for nodes in reversed(rule.sequences)]
    while waiting:
        nodes, opened = waiting.pop()
        last = nodes[-1] if nodes else None
        inside: tuple[Sequence, ...] = ()
        if isinstance(last, Either) and _leads(last, name, rules):
            inside = last.sequences
        elif isinstance(last, Repeat) and (last.least, last.most) == (0, 1) and _leads(last.node, name, rules):
            inside = ((last.node,), ())
        elif isinstance(last, Rule) and last.name != name and last.name not in opened and _leads(last, name, rules):
            inside, opened = rules[last.name].sequences, opened | {last.name}
        if not inside or len(done) + len(waiting) > MOST_INLINED:
            done.append(nodes)
        else:
            waiting += [((*nodes[:-1], *each), opened) for each in reversed(inside)]
    return done


def _leads(node: Node, name: str, rules: Mapping[str, Either]) -> bool:
    """Whether a text of `node` may end with one of the rule `name`."""
    seen: set[str] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        match each:
            case Rule(found):
                if found == name:
                    return True
                if found not in seen:
                    seen.add(found)
                    waiting.append(rules[found])
            case Repeat(inner, _, 1):
                waiting.append(inner)
            case Either(sequences):
                waiting += [nodes[-1] for nodes in sequences if nodes]
    return False
