"""The grammar of an answer, in llguidance's Lark: reasoning first, then text until a call begins, or calls alone.

Tokens of a form are named by id, as `<[7]>`, where the vocabulary has them; no text of the grammar matches such a
token. Where it has none, the form's text is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weft.compute.grammars.constraints import HEADER, json_rule
from weft.compute.grammars.json_schema import SPACE
from weft.frontend.chat.elements import ANY_TEXT, ElementValues
from weft.frontend.chat.patterns import Atom, Wild, atoms_of, joined_atoms
from weft.frontend.chat.reasoning_forms import ReasoningForm, Thinking
from weft.frontend.chat.tool_forms import ToolForm
from weft.frontend.chat.tools import Tool, ToolUse

GAP = f"/{SPACE}/"
"""White space between a form's own JSON tokens, bounded as that of schemas is."""
AROUND = r"/[ \n]{0,4}/"
"""White space between reasoning and calls, and between calls."""
TEXT = ANY_TEXT
NEW_LINE = "\n"
END = json.dumps("\n</parameter>\n")
"""Of an element."""
WITHOUT_END = r"~/(?s:.*)<\/parameter>(?s:.*)/"
"""No text that has an element's end in it: what reads the answer ends the element there."""
EMPTY = '""'
"""The rule of no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the vocabulary makes of forms. `ids`: of added tokens, by their text. `eos`: those that end an answer."""

    ids: Mapping[str, int]
    eos: frozenset[int] = frozenset()


@dataclass(slots=True)
class AnswerGrammar:
    """Writes rules. `content`: the one that text for the reader keeps to; None: any text."""

    words: Words
    form: ToolForm | None = None
    reasoning: ReasoningForm | None = None
    thinking: Thinking = Thinking.NONE
    budget: int | None = None
    """Tokens of reasoning, at most."""
    content: str | None = None
    _rules: dict[str, str] = field(default_factory=dict)

    def written(self, use: ToolUse) -> str | None:
        """The grammar's text; None where any answer will do."""
        tools = use.callable if self.form is not None else ()
        if not tools and self.content is None and self.budget is None:
            return None
        self._rules = {"GAP": GAP, "AROUND": AROUND, "TEXT": TEXT}
        body = self._body(tools, use)
        start = f"{self._before(begins_with_calls=use.mode == 'required')} ( {body} )"
        rules = {"start": start, **self._rules}
        return HEADER + "".join(f"{name}: {rule}\n" for name, rule in rules.items())

    # reasoning

    def _before(self, begins_with_calls: bool) -> str:
        form = self.reasoning
        if form is None or self.thinking is Thinking.NONE:
            return ""
        end = self._sequence(self._atoms(form.end))
        if self.budget == 0:
            thoughts = end
        elif end.startswith("<["):
            self._rules["thoughts" if self.budget is None else f"thoughts[max_tokens={self.budget}]"] = "TEXT"
            thoughts = f"thoughts {end}"
        else:
            self._rules["thoughts[lazy]"] = f"TEXT {json.dumps(form.end)}"
            thoughts = "thoughts"
        then = self._sequence(self._atoms(form.then))
        blanks = "AROUND" if begins_with_calls and not form.then else ""
        if self.thinking is Thinking.OPEN:
            return f"{thoughts} {then} {blanks}"
        begin = self._sequence(self._atoms(form.begin))
        return f"( {begin} {thoughts} {then} {blanks} )?"

    def _answer(self) -> str:
        """Text for the reader, with what opens it."""
        opening = self.reasoning.answer[:1] if self.reasoning is not None else ()
        opened = " ".join(self._sequence(self._atoms(text)) for text in opening)
        return f"{opened} {self.content or 'TEXT'}"

    # calls

    def _body(self, tools: Sequence[Tool], use: ToolUse) -> str:
        form = self.form
        if form is None or not tools:
            return self._answer()
        self._rules["calls"] = self._calls(form, tools, use)
        if use.mode == "required":
            return "calls"
        if self.content is not None or form.in_channels:
            return f"calls | {self._answer()}"
        if form.at_start:
            return f"calls | {self._plain(form)}"
        trigger = _unblanked(self._atoms(form.begin or form.calls[0].partition("$")[0]))[0]
        if self._is_token(trigger):
            return "TEXT calls | TEXT"
        # The trigger is text itself: what comes before it is the shortest text that ends with it.
        del self._rules["calls"]
        self._rules["opened[lazy]"] = f"TEXT {_literal(str(trigger))}"
        return f"opened {self._calls(form, tools, use, opened=True)} | TEXT"

    def _plain(self, form: ToolForm) -> str:
        """Text that does not begin as a call does."""
        before = form.around(form.calls[0])[0]
        pattern = "".join(r"\s*" if atom is Wild.BLANK else _quoted(str(atom)) for atom in atoms_of(before, ()))
        self._rules["PLAIN"] = f"{TEXT} & ~/\\s*{pattern}(?s:.*)/"
        return "PLAIN"

    def _calls(self, form: ToolForm, tools: Sequence[Tool], use: ToolUse, *, opened: bool = False) -> str:
        """`begin call (separator call)* end`. `opened`: without the first fixed text."""
        begin = _unblanked(self._atoms(form.begin))
        first = self._sequence(begin[1:] if opened else begin)
        call = self._call(form.calls[0], tools)
        firsts = [self._call(form.calls[0], tools, opened=opened and not begin)]
        if form.at_start:
            tokens = [token for token in form.tokens if token in self.words.ids]
            firsts += [self._call(one, tools) for one in form.calls[1:] if one.startswith(tuple(tokens or ["$"]))]
        more = f"( {self._sequence(self._atoms(form.separator))} {call} )*" if form.parallel and use.parallel else ""
        return f"{first} ( {' | '.join(firsts)} ) {more} {self._sequence(self._atoms(form.end))}"

    def _call(self, call: str, tools: Sequence[Tool], *, opened: bool = False) -> str:
        """The rule of one call in one spelling."""
        assert self.form is not None
        before, between, after = (self._atoms(part) for part in self.form.around(call))
        name = f"call_{self.form.calls.index(call)}{'_opened' if opened else ''}"
        # The token that ends the answer is left out: an answer may end wherever its grammar does.
        closing = [atom for atom in after if self.words.ids.get(str(atom)) not in self.words.eos]
        heads = [joined_atoms(_unblanked(before)[opened:], [tool.name], between) for tool in tools]
        self._rules[name] = " | ".join(
            f"{self._sequence(head)} {self._arguments(tool, at)} {self._sequence(closing)}"
            for at, (head, tool) in enumerate(zip(heads, tools, strict=True))
        )
        return name

    # arguments

    def _arguments(self, tool: Tool, at: int) -> str:
        assert self.form is not None
        name = f"arguments_{at}"
        if name not in self._rules:
            if self.form.arguments == "json":
                self._rules[name] = json_rule({**tool.parameters, "type": "object"})
            else:
                self._rules[name] = self._elements(tool, name)
        return name

    def _elements(self, tool: Tool, name: str) -> str:
        """Those of the schema's properties in its order, then others where it allows them."""
        values = ElementValues(tool.parameters)
        self._rules["PARAMETER"] = f"TEXT & {WITHOUT_END}"
        self._rules["parameter_text[lazy]"] = f"PARAMETER {END}"
        made = []
        for number, (key, schema) in enumerate(values.members.items()):
            rule = f"{name}_{number}"
            self._rules[rule] = f"{_literal(f'<parameter={key}>{NEW_LINE}')} {self._value(values, schema, rule)}"
            made.append(rule if key in values.required else f"{rule}?")
        if values.other is not False:
            taken = "|".join(map(_quoted, values.members))
            key = f"{name}_KEY".upper()
            self._rules[key] = r"/[^>\n]{1,64}/" + (f" & ~/{taken}/" if taken else "")
            self._rules[f"{key}_TAG"] = f'"<parameter=" {key} ">\\n"'
            made.append(f"( {key}_TAG {self._value(values, values.other, f'{name}_other')} )*")
        return " ".join(made) or EMPTY

    def _value(self, values: ElementValues, schema: Any, rule: str) -> str:
        """What stands after an element's name, up to the next element."""
        if values.is_any_text(schema):
            return "parameter_text"
        if not values.is_text(schema):
            return f"{json_rule(values.alone(schema))} {END}"
        self._rules[rule.upper()] = f"( {values.terminal(schema)} ) & {WITHOUT_END}"
        self._rules[f"{rule}_text[lazy]"] = f"{rule.upper()} {END}"
        return f"{rule}_text"

    # fixed text

    def _atoms(self, text: str) -> list[Atom]:
        return atoms_of(text, self._tokens)

    @property
    def _tokens(self) -> tuple[str, ...]:
        return (*(self.form.tokens if self.form else ()), *(self.reasoning.tokens if self.reasoning else ()))

    def _is_token(self, atom: Atom) -> bool:
        return isinstance(atom, str) and atom in self.words.ids and atom in self._tokens

    def _sequence(self, atoms: Sequence[Atom]) -> str:
        """Atoms as lexemes: tokens by id, all between two tokens as one terminal."""
        made: list[str] = []
        text: list[str] = []
        for atom in atoms:
            if self._is_token(atom):
                made += [self._terminal(text), f"<[{self.words.ids[str(atom)]}]>"]
                text = []
            else:
                text.append("GAP" if atom is Wild.BLANK else _literal(str(atom)))
        return " ".join(one for one in [*made, self._terminal(text)] if one)

    def _terminal(self, parts: Sequence[str]) -> str:
        if len(parts) < 2:
            return "".join(parts)
        definition = " ".join(parts)
        known = next((name for name, rule in self._rules.items() if rule == definition), None)
        if known is not None:
            return known
        name = f"FIXED_{len(self._rules)}"
        self._rules[name] = definition
        return name


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """For a regular expression between slashes."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text)


def _unblanked(atoms: Sequence[Atom]) -> list[Atom]:
    return list(atoms[1:] if atoms[:1] == [Wild.BLANK] else atoms)
