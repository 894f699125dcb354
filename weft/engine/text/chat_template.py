"""Chat templates: a model's own Jinja template over a conversation, in a sandbox.

The template comes with the model and is not trusted: it runs in jinja2's immutable sandbox, sees only plain JSON
values, and its output is bounded. Environment and helpers are those transformers gives templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.base.errors import RequestError

DEFAULT, TOOL_USE = "default", "tool_use"
PROBE_WORDS = ("a word that only a user says", "Other talk here; see it vary")
"""Of equal length, so that a template that only counts characters writes the same for both."""
PROBE_TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}
Message = Mapping[str, Any]
_SYSTEM, _REPLY = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}
_USER = {"role": "user", "content": PROBE_WORDS[0]}
AROUND: tuple[tuple[list[Message], list[Message]], ...] = (
    ([], []),
    ([_SYSTEM], []),
    ([_USER, _REPLY], []),
)
"""What stands before and after a user's words in the usual forms: a template may want a system message, or refuse
one."""
MAX_CHARACTERS = 16 << 20
"""Longest prompt a template may write; far beyond any context."""


class TemplateForm(NamedTuple):
    """How a template reads what it is given. `parts`: contents as lists of parts. `tools_listed`: `tools` as a list,
    which is empty where a request has none; else they are none there, as transformers gives them."""

    parts: bool = False
    tools_listed: bool = False


class ChatTemplates:
    """A model's templates by name ("default", "tool_use", ...) and the variables they see (bos_token, eos_token)."""

    def __init__(
        self, sources: Mapping[str, str], variables: Mapping[str, str], *, max_characters: int = MAX_CHARACTERS
    ) -> None:
        self.sources = dict(sources)
        self.variables = dict(variables)
        self.max_characters = max_characters
        self.forms: dict[str, TemplateForm] = {}
        """By name, which `decide` has found."""
        self.left_out: dict[str, str] = {}
        """By name: why a template that is not the usual one cannot be used, which `decide` has found."""
        self._compiled: dict[str, jinja2.Template] = {}

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        extensions = [_Generation, jinja2.ext.loopcontrols]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        environment.globals["namespace"] = _Namespace
        return environment

    def check(self) -> None:
        """RequestError: a template cannot be compiled."""
        for name in self.sources:
            self._template(name)

    def decide(self) -> None:
        """Finds the form of every template by trying each. Others than the usual one are left out where they cannot be
        compiled, or show nothing of what a user says in any form. RequestError: the usual one."""
        for name in sorted(self.sources.keys() - self.forms.keys()):
            reason = self._tried(name)
            if reason and name == DEFAULT:
                raise RequestError(f"chat template {name!r} cannot be used: {reason}", param="messages", status=500)
            if reason:
                self.leave_out({name: reason})

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Takes templates away, each with a reason."""
        for name in reasons:
            self.sources.pop(name, None)
        self.left_out |= reasons

    def _tried(self, name: str) -> str:
        """Sets the template's form; why it cannot be used, if so."""
        faults: list[str] = []
        try:
            self._template(name)
        except RequestError as error:
            return str(error)
        for tools_listed, parts in product((False, True), repeat=2):
            self.forms[name] = TemplateForm(parts, tools_listed)
            if any(self._shows_words(name, before, after, faults) for before, after in AROUND):
                return ""
        self.forms[name] = TemplateForm()
        return faults[0] if faults else "it shows nothing of a user's message"

    def _shows_words(self, name: str, before: list[Message], after: list[Message], faults: list[str]) -> bool:
        """Whether other words of a user, between messages of one of the usual forms, give another text, in which they
        do not stand as a list of parts."""
        tools = [PROBE_TOOL] if name == TOOL_USE else None
        users: list[Message] = [{"role": "user", "content": words} for words in PROBE_WORDS]
        try:
            one, other = (self.render([*before, user, *after], tools=tools, named=name) for user in users)
        except RequestError as error:
            faults.append(str(error))
            return False
        part = _in_parts(users[0])["content"][0]
        return one != other and not (self.forms[name].parts and any(form(part) in one for form in (str, _tojson)))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        named: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation, by the template that is `named` (None: the usual one). RequestError (field
        `messages`) carries the template's own message."""
        name = named or (TOOL_USE if tools and TOOL_USE in self.sources else DEFAULT)
        form = self.forms.get(name, TemplateForm())
        given = {
            "messages": [_in_parts(message) for message in messages] if form.parts else messages,
            "tools": [] if tools is None and form.tools_listed else tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        values = {**self.variables, **{name: _plain(name, value) for name, value in given.items()}}
        template = self._template(name)
        parts: list[str] = []
        length = 0
        try:
            for part in template.generate(values):
                parts.append(part)
                length += len(part)
                if length > self.max_characters:
                    raise RequestError(f"chat template: wrote over {self.max_characters} characters", param="messages")
        except RequestError:
            raise
        except Exception as error:  # whatever the template's code runs into is the fault of template and conversation
            raise RequestError(f"chat template: {str(error) or type(error).__name__}", param="messages") from error
        return "".join(parts)

    def _template(self, name: str) -> jinja2.Template:
        if name not in self.sources:
            raise RequestError(
                "the model has no chat template: send a prompt to the completions endpoint", param="messages"
            )
        if name not in self._compiled:
            try:
                self._compiled[name] = self._environment.from_string(self.sources[name])
            except Exception as error:  # beside Jinja's own errors, those of Python's compiler and stack
                raise RequestError(f"chat template: the template itself is faulty: {error}", status=500) from error
        return self._compiled[name]


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content, where it is text, is a list of one part."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _plain(where: str, value: Any) -> Any:
    """`value` as fresh JSON values, so that a template meets no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{where}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{where}[{index}]", item) for index, item in enumerate(value)]
    raise RequestError(f"{where}: a {type(value).__name__} is not a JSON value", param=where.partition("[")[0])


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own tojson escapes HTML, which prompts must not have."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without underscored attributes, which a template could use to reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args  # positional, so that a template may name an attribute `self`
        attributes = dict(*rest, **values)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name}")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; serving writes its body as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body of the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
