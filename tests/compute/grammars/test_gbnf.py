"""GBNF: exactly the texts of the grammar, against a matcher of characters; what it is not is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.compute.grammars.test_json_schema import CHECK, COMPILER, accepts
from weft.base.errors import RequestError
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.constraints import Check, Constraint, Grammar, grammar_of
from weft.compute.grammars.gbnf.grammar import MOST_NESTED

LONGEST = 6
ALPHABET = "ab"
Language = frozenset[str]
NOTHING, EMPTY = frozenset[str](), frozenset({""})


def gbnf(text: str, check: Check = CHECK) -> Grammar:
    return grammar_of(Constraint(kind="grammar", value=text, param="grammar"), check)


# an independent matcher: every text of at most LONGEST characters


def joined(one: Language, other: Language) -> Language:
    return frozenset(left + right for left in one for right in other if len(left) + len(right) <= LONGEST)


def repeated(inner: Language, least: int, most: int | None) -> Language:
    found, power = NOTHING, EMPTY
    for times in range((LONGEST + least if most is None else most) + 1):
        if times >= least:
            if power <= found and times > least:
                break
            found |= power
        power = joined(power, inner)
    return found


Meaning = Callable[[dict[str, Language]], Language]


class Drawn:
    """A random grammar: its text, and what it means."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = ["root", *(f"rule-{n}" for n in range(self.random.randint(1, 7)))]
        self.rules: dict[str, Meaning] = {}
        lines = []
        for name in self.names:
            written, self.rules[name] = self.either(0)
            lines.append(f"{name} ::= {written}")
        self.text = "\n".join(lines)

    def either(self, depth: int) -> tuple[str, Meaning]:
        made = [self.sequence(depth) for _ in range(self.random.choice([1, 1, 2, 2, 3]))]
        return " | ".join(text for text, _ in made), lambda known: NOTHING.union(*(mean(known) for _, mean in made))

    def sequence(self, depth: int) -> tuple[str, Meaning]:
        made = [self.repeat(depth) for _ in range(self.random.choice([0, 1, 1, 2, 2, 3]))]

        def mean(known: dict[str, Language]) -> Language:
            found = EMPTY
            for _, each in made:
                found = joined(found, each(known))
            return found

        return " ".join(text for text, _ in made) or '""', mean

    def repeat(self, depth: int) -> tuple[str, Meaning]:
        text, inner = self.atom(depth)
        least = self.random.randint(0, 2)
        marks: list[tuple[str, int, int | None]] = [
            ("*", 0, None), ("+", 1, None), ("?", 0, 1), (f"{{{least}}}", least, least), (f"{{{least},}}", least, None),
            (f"{{{least},{least + 1}}}", least, least + 1),
        ]  # fmt: skip
        if self.random.random() < 0.6:
            return text, inner
        mark, low, high = self.random.choice(marks)
        return text + mark, lambda known: repeated(inner(known), low, high)

    def atom(self, depth: int) -> tuple[str, Meaning]:
        kind = self.random.random()
        if kind < 0.35:
            word = "".join(self.random.choices(ALPHABET, k=self.random.choice([1, 1, 2, 3])))
            return f'"{word}"', lambda known: frozenset({word})
        if kind < 0.6:
            some = self.random.sample(ALPHABET, self.random.randint(1, 2))
            negated = self.random.random() < 0.2
            return f"[{'^' * negated}{''.join(some)}]", lambda known: frozenset(
                each for each in ALPHABET if (each in some) != negated
            )
        if kind < 0.65:
            return ".", lambda known: frozenset(ALPHABET)
        if kind < 0.9 or depth > 1:
            name = self.random.choice(self.names)
            return name, lambda known: known[name]
        text, inner = self.either(depth + 1)
        return f"({text})", inner

    def language(self) -> Language:
        known = dict.fromkeys(self.names, NOTHING)
        while True:
            found = {name: mean(known) for name, mean in self.rules.items()}
            if found == known:
                return found["root"]
            known = found


def accepted(grammar: Grammar) -> Iterator[str]:
    """Every text of ALPHABET that the automaton takes as a whole, up to LONGEST."""
    waiting = [("", COMPILER.compile(grammar.text)._matcher)]
    while waiting:
        text, matcher = waiting.pop()
        ends = matcher.deep_copy()
        if ends.consume_token(270):
            yield text
        for each in ALPHABET if len(text) < LONGEST else "":
            further = matcher.deep_copy()
            if further.consume_token(ord(each)):
                waiting.append((text + each, further))


@pytest.mark.parametrize("block", range(10))
def test_random_grammars_take_exactly_their_texts(block: int) -> None:
    """Several marks, literals that begin others, classes that take in what follows, recursion at every place."""
    compiled = 0
    for seed in range(50 * block, 50 * block + 50):
        drawn = Drawn(seed)
        wanted = drawn.language()
        try:
            grammar = gbnf(drawn.text)
        except RequestError as error:
            assert not wanted, (drawn.text, str(error), sorted(wanted)[:5])
            continue
        compiled += 1
        assert {*accepted(grammar)} == wanted, drawn.text
    assert compiled > 25


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('root ::= "caf\\u00e9ade"', ["caféade"], ["caf"]),
        ('root ::= "\\x41" "\\U0001F600" .', ["A😀\n", "A😀é"], ["A😀"]),
        ("root ::= [\\u00e0-\\u00ff]{2}", ["éü"], ["ab", "é"]),
        ("root ::= [^\\n\\]\\\\]*", ["a b", "["], ["\n", "]", "\\"]),
        ("root ::= [a\\-z-]+", ["a-z"], ["b"]),
        ('# one\nroot ::= (\n  "a" # two\n  |\n  "b")\n  \n', ["a", "b"], ["ab"]),
        ('root ::= "a" |\n  "b"\nother::="x"', ["a", "b"], ["x"]),
        ('root ::= "yes" | "yesterday" | [a-z]+ "!"', ["yes", "yesterday", "yes!"], ["yester", "!"]),
        ("root ::= ws [0-9]+ ws\nws ::= [ \\t\\n] ws |", ["1", "  12\n"], ["1 2"]),
        ('root ::= "\\"" ([^"\\\\] | "\\\\" ["\\\\n])* "\\""', ['"a\\"b"', '""'], ['"a"b"']),
        ("root ::= list\nlist ::= [0-9] (\",\" list)?", ["1,2,3"], ["1,"]),
        ('root ::= "é"+ [^é]', ["éé!"], ["éé"]),
        ("root ::= .{3}", ["\n\u2028x"], ["ab"]),
    ],
)  # fmt: skip
def test_what_a_grammar_says_is_what_is_taken(text: str, good: list[str], bad: list[str]) -> None:
    grammar = gbnf(text)
    assert all(accepts(grammar, each) for each in good) and not any(accepts(grammar, each) for each in bad)


@pytest.mark.parametrize(
    "text",
    [
        'other ::= "a"', "root ::= missing", 'root ::= "a', "root ::= [a", 'root ::= ("a"', 'root ::= "\\q"',
        "root ::= []", 'root ::= "\\u00"', 'root ::= "\\ud800"', "root ::= [z-a]", 'root ::= "a"{2,1}',
        'root ::= "a"{}', "root ::= )",
        'root ::= "a" root', 'root ::= "a"\nroot ::= "b"', "root ::= <[9999]>", "root ::= <no such token>",
        "root ::= /a/", "root = \nroot ::= $", "root ::= (?=a)",
        "root ::= " + "(" * (MOST_NESTED + 2) + '"a"' + ")" * (MOST_NESTED + 2),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        gbnf(text)
    assert caught.value.param == "grammar"


def test_added_tokens_are_named_by_text_or_id() -> None:
    check = Check(COMPILER.check, {"<tool_call>": 272})
    for text in ("root ::= <tool_call> [a-z]", "root ::= <[272]> [a-z]"):
        automaton = COMPILER.compile(gbnf(text, check).text)
        automaton.feed([272, ord("q"), 270])
        with pytest.raises(GrammarError):
            COMPILER.compile(gbnf(text, check).text).feed([*b"<tool_call>q"])


def test_runs_that_meet_nothing_else_stay_one_terminal() -> None:
    whole = gbnf('root ::= ("number " [0-9]+ "; ")*')
    assert whole.text.count('"') + whole.text.count("/") < 12 and not whole.notes
    assert gbnf('root ::= [0-9]+ "0"').notes and accepts(gbnf('root ::= [0-9]+ "0"'), "100")


def test_a_list_that_ends_with_itself_is_no_slower_at_its_end() -> None:
    """Its items in the parser stay as many as at its beginning."""
    grammar = gbnf('root ::= "a" next\nnext ::= "b" last |\nlast ::= "a" next')
    automaton = COMPILER.compile(grammar.text)
    automaton.feed([*(b"ab" * 3000)])
    assert "*" in grammar.text and accepts(grammar, "aba") and not accepts(grammar, "aab")
