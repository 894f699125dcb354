"""The grammar of an answer, in llguidance's Lark: reasoning first, then text until a call begins, or calls alone.

Tokens of a form are named by id, as `<[7]>`, where the vocabulary has them; no text of the grammar matches such a
token. Where it has none, the form's text is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.compute.grammars.constraints import HEADER, json_rule
from weft.compute.grammars.json_schema import SPACE
from weft.compute.grammars.regexes import literal, quoted
from weft.frontend.chat.elements import ANY_TEXT, EMPTY, ElementRules
from weft.frontend.chat.patterns import ID, WIDE, Atom, Wild, atoms_of, first_fixed, joined_atoms, pattern_of, unblanked
from weft.frontend.chat.reasoning_forms import ReasoningForm, Thinking
from weft.frontend.chat.tool_forms import ToolForm
from weft.frontend.chat.tools import Tool, ToolUse

GAP = f"/{SPACE}/"
"""White space between a form's own JSON tokens, bounded as that of schemas is."""
AROUND = r"/[ \n]{0,4}/"
"""White space between reasoning and calls, and between calls."""
TEXT = ANY_TEXT


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
        self._rules = {
            "GAP": GAP,
            "WIDE": WIDE,
            "AROUND": AROUND,
            "TEXT": TEXT,
            "START": self._start(),
            "ID": f"/{ID}/",
        }
        body = self._body(tools, use)
        start = f"{self._before(begins_with_calls=use.mode == 'required')} ( {body} )"
        if use.mode != "required" and self.content is None:
            start += self._thoughts_alone()
        rules = {"start": start, **self._rules}
        return HEADER + "".join(f"{name}: {rule}\n" for name, rule in rules.items())

    # reasoning

    def _before(self, begins_with_calls: bool) -> str:
        form = self.reasoning
        if form is None or self.thinking is Thinking.NONE:
            return ""
        end = self._sequence(self._atoms(form.end))
        thoughts = end if self.budget == 0 else self._thoughts(form, end)
        then = self._sequence(self._atoms(form.then))
        blanks = "AROUND" if begins_with_calls and not form.then else ""
        if self.thinking is Thinking.OPEN:
            return f"{thoughts} {then} {blanks}"
        begin = self._sequence([Wild.BLANK, *self._atoms(form.begin)], gap="WIDE")
        return f"( {begin} {thoughts} {then} {blanks} )?"

    def _thoughts(self, form: ReasoningForm, end: str) -> str:
        """They may name what begins a call."""
        before = "" if self.budget is not None else self._naming(end)
        if end.startswith("<["):
            rule = "thoughts" if self.budget is None else f"thoughts[max_tokens={self.budget}]"
            self._rules[rule] = f"{before}TEXT"
            return f"thoughts {end}"
        self._rules["last_thoughts[lazy]"] = f"TEXT {json.dumps(form.end)}"
        return f"{before}last_thoughts"

    def _naming(self, end: str) -> str:
        """Thoughts up to a token of the form of calls, as often as it comes."""
        named = sorted(self._form_tokens - {end})
        return f"( TEXT ( {' | '.join(named)} ) )* " if named else ""

    def _thoughts_alone(self) -> str:
        """An answer that ends inside its thoughts."""
        form = self.reasoning
        if form is None or self.thinking is Thinking.NONE or self.budget is not None or form.then:
            return ""
        begin = self._sequence([Wild.BLANK, *self._atoms(form.begin)], gap="WIDE")
        thoughts = f"{self._naming(self._sequence(self._atoms(form.end)))}TEXT"
        return f" | {thoughts}" if self.thinking is Thinking.OPEN else f" | {begin} {thoughts}"

    def _start(self) -> str:
        """Text with which an answer may begin: not as reasoning does."""
        form = self.reasoning
        if form is None or self.thinking is Thinking.NONE or form.begin in self.words.ids:
            return TEXT
        return f"{TEXT} & ~/\\s*{quoted(form.begin)}(?s:.*)/"

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
        del self._rules["calls"]
        return self._text_with_calls(form, tools, use)

    def _text_with_calls(self, form: ToolForm, tools: Sequence[Tool], use: ToolUse) -> str:
        """Any text until a call of one of the tools has begun, then calls. Text that names none of them is text.

        What comes before a name is a lazy rule: it ends free text. Then a name follows, or text that is none."""
        heads: dict[tuple[Atom, ...], list[int]] = {}
        for spelling, call in enumerate(form.calls):
            before = joined_atoms(self._atoms(form.begin), self._atoms(form.around(call)[0]))
            heads.setdefault(tuple(unblanked(before)), []).append(spelling)
        names = "|".join(quoted(tool.name) for tool in tools)
        ends = {pattern_of(self._name_end(form, call)) for call in form.calls}
        self._rules["AFTER"] = f"TEXT & ~/({names})({'|'.join(sorted(ends))})(?s:.*)/"
        texts = {at for at, head in enumerate(heads) if not any(map(self._is_token, head))}
        more, opened, before_names = [EMPTY], list[str](), set[str]()
        for number, head in enumerate(heads):
            *first, last = self._apart(head)
            if self._is_token(head[-1]):
                before_names.add(last)
            else:
                self._rules[f"trigger_{number}[lazy]"] = f"WIDE {last}" if form.at_start and not first else last
                last = f"trigger_{number}"
            if number not in texts:
                more.append(" ".join([*first, last, f"hit_{number}"]))
            elif form.at_start:
                opened.append(f"{last} hit_{number}")
        free = [(at, " ".join(self._apart(head))) for at, head in enumerate(heads) if at in texts and not form.at_start]
        for number, spellings in enumerate(heads.values()):
            hits = [self._named(form, each, at, tool) for each in spellings for at, tool in enumerate(tools)]
            self._rules[f"hit_{number}"] = f"( {' | '.join(hits)} ) further | {self._free('AFTER', free, names)}"
        self._rules["further"] = self._more(form, tools, use) or EMPTY
        for token in sorted(self._form_tokens - self._closing_tokens(form)):
            more.append(f"{token} {'no_name' if token in before_names else 'segment'}")
        self._rules["no_name"] = self._free("AFTER", free, names)
        self._rules["segment"] = self._free("TEXT", free, names)
        self._rules["more"] = " | ".join(more)
        return " | ".join([self._free("START", free, names), *opened])

    def _free(self, text: str, heads: Sequence[tuple[int, str]], names: str) -> str:
        """Free text, whose terminal is `text`, and what may follow. `heads`: those that are text themselves."""
        made = [f"{text} more"]
        for number, head in heads:
            rule = f"{text.lower()}_{number}"
            self._rules[f"{rule}[lazy]"] = f"{text} {head}"
            made.append(f"{rule} hit_{number}")
        closing = sorted(self._closing_tokens(self.form))
        if closing:  # a name before it would be a call's
            self._rules[f"{text}_NO_NAME"] = f"{text} & ~/\\s*({names})\\s*/"
            made.append(f"{text}_NO_NAME ( {' | '.join(closing)} ) segment")
        return " | ".join(made)

    def _closing_tokens(self, form: ToolForm | None) -> set[str]:
        """Tokens that end a name."""
        ends = [self._name_end(form, call)[-1:] for call in form.calls] if form is not None else []
        return {self._sequence(end) for end in ends if end and self._is_token(end[0])}

    def _name_end(self, form: ToolForm, call: str) -> list[Atom]:
        """What follows a name, up to the first fixed text."""
        between = self._atoms(form.around(call)[1])
        return between[: first_fixed(between)]

    def _named(self, form: ToolForm, spelling: int, at: int, tool: Tool) -> str:
        """A call from its name on."""
        call = form.calls[spelling]
        _, between, after = (self._atoms(part) for part in form.around(call))
        end = self._name_end(form, call)
        name = self._sequence([tool.name, *end], gap="WIDE")
        rest = self._sequence(between[len(end) :])
        closing = self._sequence([atom for atom in after if self.words.ids.get(str(atom)) not in self.words.eos])
        return f"{name} {rest} {self._arguments(tool, at)} {closing}"

    def _apart(self, atoms: Sequence[Atom]) -> list[str]:
        """Tokens, and the texts between them."""
        made: list[str] = []
        text: list[str] = []
        for atom in atoms:
            if self._is_token(atom):
                made += [*([" ".join(text)] if text else []), f"<[{self.words.ids[str(atom)]}]>"]
                text = []
            else:
                text.append("WIDE" if atom is Wild.BLANK else "ID" if atom is Wild.ID else literal(str(atom)))
        return [*made, " ".join(text)] if text else made

    def _more(self, form: ToolForm, tools: Sequence[Tool], use: ToolUse) -> str:
        """What may follow a call: others, and the end of all."""
        end = self._sequence(self._atoms(form.end))
        if not (form.parallel and use.parallel):
            return end
        call = self._call(form.calls[0], tools)
        return f"( {self._sequence(self._atoms(form.separator))} {call} )* {end}"

    @property
    def _form_tokens(self) -> set[str]:
        """Those of the form that the vocabulary has."""
        tokens = self.form.tokens if self.form is not None else ()
        return {f"<[{self.words.ids[token]}]>" for token in tokens if token in self.words.ids}

    def _calls(self, form: ToolForm, tools: Sequence[Tool], use: ToolUse) -> str:
        """`begin call (separator call)* end`."""
        firsts = [self._call(form.calls[0], tools)]
        if form.at_start:
            tokens = [token for token in form.tokens if token in self.words.ids]
            firsts += [self._call(one, tools) for one in form.calls[1:] if one.startswith(tuple(tokens or ["$"]))]
        begin = self._sequence(unblanked(self._atoms(form.begin)))
        return f"{begin} ( {' | '.join(firsts)} ) {self._more(form, tools, use)}"

    def _call(self, call: str, tools: Sequence[Tool]) -> str:
        """The rule of one call in one spelling."""
        assert self.form is not None
        before, between, after = (self._atoms(part) for part in self.form.around(call))
        name = f"call_{self.form.calls.index(call)}"
        # The token that ends the answer is left out: an answer may end wherever its grammar does.
        closing = [atom for atom in after if self.words.ids.get(str(atom)) not in self.words.eos]
        heads = [joined_atoms(unblanked(before), [tool.name], between) for tool in tools]
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
                self._rules[name] = ElementRules(tool.parameters, self._rules).written(name)
        return name

    # fixed text

    def _atoms(self, text: str) -> list[Atom]:
        return atoms_of(text, self._tokens)

    @property
    def _tokens(self) -> tuple[str, ...]:
        return (*(self.form.tokens if self.form else ()), *(self.reasoning.tokens if self.reasoning else ()))

    def _is_token(self, atom: Atom) -> bool:
        return isinstance(atom, str) and atom in self.words.ids and atom in self._tokens

    def _sequence(self, atoms: Sequence[Atom], gap: str = "GAP") -> str:
        """Atoms as lexemes: tokens by id, all between two tokens as one terminal."""
        made: list[str] = []
        text: list[str] = []
        for atom in atoms:
            if self._is_token(atom):
                made += [self._terminal(text), f"<[{self.words.ids[str(atom)]}]>"]
                text = []
            else:
                text.append(gap if atom is Wild.BLANK else literal(str(atom)))
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
