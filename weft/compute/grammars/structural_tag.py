"""vLLM's structural tags as rules: texts with structures in them, in the older words (`structures`, `triggers`) and in
the newer (`format`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weft.compute.grammars.gbnf.lark import lark_of_gbnf
from weft.compute.grammars.regexes import regex_rule

MAX_TAGS = 256
MAX_DEPTH = 32
TEXT = r"/(.|\n)*/"
ANY_TEXT = "any_text"
_ONE = {"optional": "?", "star": "*", "plus": "+"}


class StructuralTagError(Exception):
    """It cannot be held; the message says where and why."""


@dataclass(slots=True)
class StructuralTags:
    """Writes rules. `json`: a schema as a part of a rule. `literal`: a text as one, in which added tokens are tokens;
    `added`: these, by their text."""

    json: Callable[[Any], str]
    literal: Callable[[str], str]
    added: Mapping[str, int]
    _rules: list[str] = field(default_factory=lambda: [f"TEXT: {TEXT}"])

    def of_structures(self, given: Mapping[str, Any]) -> str:
        """The older words: free text, in which a trigger begins one of the structures."""
        structures = given.get("structures")
        if not isinstance(structures, list) or not structures or len(structures) > MAX_TAGS:
            raise StructuralTagError(f"'structures': a list of 1 to {MAX_TAGS} structures is needed")
        tags = []
        for index, each in enumerate(structures):
            fine = isinstance(each, dict) and isinstance(each.get("begin"), str) and isinstance(each.get("end"), str)
            if not fine:
                wanted = "an object with the texts 'begin' and 'end' and a 'schema' is needed"
                raise StructuralTagError(f"'structures[{index}]': {wanted}")
            content = {"type": "json_schema", "json_schema": each.get("schema", True)}
            tags.append({"begin": each["begin"], "content": content, "end": each["end"]})
        newer = {"type": "triggered_tags", "triggers": given.get("triggers"), "tags": tags}
        return self.of_format(newer, "structural_tag")

    def of_format(self, given: Any, at: str = "format") -> str:
        """The newer words."""
        start = self._one(given, at, 0)
        return "\n".join([f"start: {start}", *self._rules])

    def _one(self, given: Any, at: str, depth: int, until: Sequence[str] = ()) -> str:
        """A part of a rule. `until`: the texts of which one follows; free text ends there."""
        kind = given.get("type") if isinstance(given, dict) else None
        make = self._kinds().get(kind) if isinstance(kind, str) else None
        if make is None or depth > MAX_DEPTH:
            raise StructuralTagError(f"'{at}.type': {kind!r}; legal: {', '.join(self._kinds())}")
        return make(given, at, depth, until)

    def _kinds(self) -> dict[str, Callable[[dict[str, Any], str, int, Sequence[str]], str]]:
        several = dict.fromkeys(_ONE, self._times)
        return {
            "const_string": lambda given, at, *_: self.literal(self._text(given, "value", at)),
            "json_schema": self._schema,
            "regex": lambda given, at, *_: regex_rule(self._text(given, "pattern", at)),
            "grammar": self._grammar,
            ANY_TEXT: self._any_text,
            "sequence": self._sequence,
            "or": self._either,
            "tag": self._tag,
            "triggered_tags": self._triggered,
            "tags_with_separator": self._separated,
            **several,
        }

    def _text(self, given: dict[str, Any], name: str, at: str) -> str:
        value = given.get(name)
        if not isinstance(value, str) or not value:
            raise StructuralTagError(f"'{at}.{name}': a text is needed")
        return value

    def _list(self, given: dict[str, Any], name: str, at: str) -> list[Any]:
        value = given.get(name)
        if not isinstance(value, list) or not 0 < len(value) <= MAX_TAGS:
            raise StructuralTagError(f"'{at}.{name}': a list of 1 to {MAX_TAGS} is needed")
        return value

    def _schema(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        if given.get("style", "json") != "json":
            raise StructuralTagError(f"'{at}.style': {given['style']!r}; legal: json")
        return self.json(given.get("json_schema", True))

    def _grammar(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        name = f"own_{len(self._rules)}_"
        self._rules.append(lark_of_gbnf(self._text(given, "grammar", at), self.added, name).text)
        return f"{name}start"

    def _any_text(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        """Free text and what follows it: it would take that in, too."""
        if given.get("excludes"):
            raise StructuralTagError(f"'{at}.excludes': it is not held; leave it out")
        if not until:
            return "TEXT"
        rules = [self._up_to(text) for text in until]
        return f"( {' | '.join(rules)} )"

    def _up_to(self, text: str) -> str:
        """A rule of free text and the text that ends it."""
        written, name = self.literal(text), f"until_{len(self._rules)}"
        self._rules.append(f"{name}: TEXT {written}" if written.startswith("<") else f"{name}[lazy]: TEXT {written}")
        return name

    def _sequence(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        elements, made, index = self._list(given, "elements", at), list[str](), 0
        while index < len(elements):
            each, last = elements[index], index + 1 == len(elements)
            ends: Sequence[str] = until if last else ()
            free = isinstance(each, dict) and each.get("type") == ANY_TEXT
            if free and not last:  # with the text after it
                following = elements[index + 1]
                if not isinstance(following, dict) or following.get("type") != "const_string":
                    raise StructuralTagError(f"'{at}.elements[{index}]': free text is followed by a const_string only")
                ends, index = [self._text(following, "value", f"{at}.elements[{index + 1}]")], index + 1
            made.append(self._one(each, f"{at}.elements[{index}]", depth + 1, ends))
            index += 1
        return " ".join(made)

    def _either(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        elements = self._list(given, "elements", at)
        parts = [self._one(each, f"{at}.elements[{index}]", depth + 1) for index, each in enumerate(elements)]
        return f"( {' | '.join(parts)} )"

    def _times(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        return f"( {self._one(given.get('content'), f'{at}.content', depth + 1)} ){_ONE[given['type']]}"

    def _tag(self, given: Any, at: str, depth: int, until: Sequence[str], trigger: str = "") -> str:
        """`trigger`: the part of its beginning that has come."""
        if not isinstance(given, dict):
            raise StructuralTagError(f"'{at}': an object with 'begin', 'content' and 'end' is needed")
        ends = given.get("end") if isinstance(given.get("end"), list) else [given.get("end")]
        if not isinstance(given.get("begin"), str) or not ends or not all(isinstance(each, str) for each in ends or ()):
            raise StructuralTagError(f"'{at}': the texts 'begin' and 'end' are needed")
        texts = [each for each in ends or () if each]
        content = given.get("content")
        free = isinstance(content, dict) and content.get("type") in (ANY_TEXT, "sequence")
        inner = self._one(content, f"{at}.content", depth + 1, texts if free else ())
        closing = f"( {' | '.join(self.literal(str(each)) for each in ends or ())} )"
        if free and texts and self._ends_free(content):
            closing = ""  # the free text has taken it
        return f"{self.literal(given['begin'][len(trigger) :])} {inner} {closing}"

    def _ends_free(self, content: Any) -> bool:
        if content.get("type") == "sequence":
            return self._ends_free(content["elements"][-1])
        return bool(content.get("type") == ANY_TEXT)

    def _triggered(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        triggers, tags = self._list(given, "triggers", at), self._list(given, "tags", at)
        if not all(isinstance(each, str) and each for each in triggers):
            raise StructuralTagError(f"'{at}.triggers': texts are needed")
        by_trigger: dict[str, list[str]] = {}
        for index, tag in enumerate(tags):
            begin = str(tag.get("begin")) if isinstance(tag, dict) else ""
            trigger = next((each for each in triggers if begin.startswith(each)), None)
            if trigger is None:
                raise StructuralTagError(f"'begin' {begin[:40]!r} begins with none of the triggers")
            made = self._tag(tag, f"{at}.tags[{index}]", depth + 1, (), trigger)
            by_trigger.setdefault(trigger, []).append(made)
        some = " | ".join(f"{self._up_to(trigger)} ( {' | '.join(rests)} )" for trigger, rests in by_trigger.items())
        least = "" if given.get("at_least_one") else "?"
        if given.get("stop_after_first"):
            return f"( {some} )" + (" | TEXT" if least else "")
        return f"( {some} ){'*' if least else '+'} TEXT"

    def _separated(self, given: dict[str, Any], at: str, depth: int, until: Sequence[str]) -> str:
        tags = self._list(given, "tags", at)
        one = " | ".join(self._tag(tag, f"{at}.tags[{n}]", depth + 1, ()) for n, tag in enumerate(tags))
        separator = given.get("separator")
        if not isinstance(separator, str):
            raise StructuralTagError(f"'{at}.separator': a text is needed")
        more = "" if given.get("stop_after_first") else f" ( {self.literal(separator)} ( {one} ) )*"
        return f"( ( {one} ){more} )" + ("" if given.get("at_least_one") else "?")
