"""Grammars of answers that may hold tool calls or reasoning: made of a request's tools, by the text worker."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request

from weft.base.errors import RequestError
from weft.base.log import get_logger
from weft.base.step.sampling_params import SamplingParams, check
from weft.compute.grammars.constraints import Constraint, Grammar
from weft.compute.grammars.json_schema import left_out, not_held
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.answer_grammar import Words
from weft.frontend.chat.elements import left_out_of
from weft.frontend.chat.tools import Tool
from weft.frontend.server.fields.notes import Notes, notes_of
from weft.frontend.server.openai.structured import LEFT_OUT, MAX_SHOWN, left_out_header
from weft.frontend.server.text_jobs import result_of
from weft.frontend.text_worker.jobs import CheckSchemas, TryGrammar
from weft.frontend.text_worker.texts import Texts

_log = get_logger(__name__)

KEPT = 16
"""Grammars that are kept: an agent sends the same tools again and again."""
CONTENT = "content"
"""Name of the grammar that text for the reader keeps to."""

Found = tuple[str | None, tuple[str, ...]]
"""A grammar's text, and keywords of the tools' schemas that it does not hold."""


class AnswerGrammars:
    """`words`: tokens that grammars name."""

    def __init__(self, texts: Texts, words: Words, vocab_size: int) -> None:
        self._texts, self._words, self._vocab_size = texts, words, vocab_size
        self._kept: OrderedDict[bytes, Found] = OrderedDict()

    async def of(
        self, request: Request, rules: AnswerRules, params: SamplingParams, headers: Mapping[str, str]
    ) -> tuple[SamplingParams, Mapping[str, str]]:
        """`params` with the grammar of the whole answer; the one that they have is that of text for the reader.
        RequestError: a schema is none, or is strict and cannot be held."""
        if not rules.use.callable and (params.grammar is None or rules.plain) and not rules.budgeted:
            return params, headers
        rules = self._bounded(rules, notes_of(request.scope))
        if rules.budget is None and not rules.use.callable and (params.grammar is None or rules.plain):
            return params, headers
        if params.grammar is None and not _needs_grammar(rules) and _ruled(params):
            return params, headers  # the request's own rules stay, and calls are read without a grammar
        text, named = await self._made(request, rules, params.grammar)
        guided = msgspec.structs.replace(params, grammar=text)
        check(guided, self._vocab_size)
        return guided, _joined(headers, left_out_header(named))

    def _bounded(self, rules: AnswerRules, notes: Notes) -> AnswerRules:
        """Without the budget where nothing can hold it. RequestError: `notes` are strict."""
        form, name = rules.forms.reasoning, "thinking_token_budget"
        if not rules.budgeted or not rules.budget or form is None or form.end in self._words.ids:
            return rules
        why = f"{form.end} is no token of this model, so the tokens before it cannot be bounded"
        if notes.strict:
            raise RequestError(
                f"'{name}': {why}; leave it out, or give 0 for no reasoning", param=name, code="unsupported_parameter"
            )
        notes.leave_out(name, why)
        return replace(rules, budget=None)

    async def _made(self, request: Request, rules: AnswerRules, content: str | None) -> Found:
        key = msgspec.msgpack.encode(
            [
                [(tool.name, tool.parameters, tool.strict) for tool in rules.use.callable],
                [rules.use.mode, rules.use.parallel, rules.thinking.name, rules.budget, content],
            ]
        )
        found = self._kept.pop(key, None)
        if found is None:
            found = await self._make(request, rules, content)
        self._kept[key] = found
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    async def _make(self, request: Request, rules: AnswerRules, content: str | None) -> Found:
        tools = rules.use.callable
        schemas: list[Grammar] = []
        if tools:
            job = CheckSchemas([_constraint(tool, rules.forms.open_objects) for tool in tools])
            schemas = await result_of(self._texts, request, job)
        held = tuple(replace(tool, parameters=_schema(found)) for tool, found in zip(tools, schemas, strict=True))
        named = tuple(
            f"{tool.name}: {keyword}"
            for tool, found in zip(held, schemas, strict=True)
            for keyword in (*found.left_out, *_left_out_by_form(rules, tool))
        )
        if named:
            _log.warning("keywords of tools are left out: %s", "; ".join(named)[:MAX_SHOWN])
        rules = replace(rules, use=replace(rules.use, offered=held, only=None))
        text = rules.grammar(self._words, content=None if content is None else f"@{CONTENT}")
        if text is not None and content is not None:
            parts = [{"name": "answer", "lark_grammar": text}, {"name": CONTENT, "lark_grammar": content}]
            text = json.dumps({"grammars": parts})
        if text is not None:
            await result_of(self._texts, request, TryGrammar(text, "tools" if tools else "response_format"))
        return text, named


def _left_out_by_form(rules: AnswerRules, tool: Tool) -> list[str]:
    """Keywords that a grammar of JSON holds, and not one of the form of calls. RequestError: the tool is strict."""
    form = rules.forms.tools
    found = left_out_of(tool.parameters) if form is not None and form.arguments == "xml" else []
    if found and tool.strict:
        raise not_held(_param(tool), *found[0])
    return [left_out(*one) for one in found]


def _param(tool: Tool) -> str:
    return f"{tool.at}.function.parameters"


def _constraint(tool: Tool, open_objects: bool) -> Constraint:
    """Arguments are an object, whatever else their schema says. Where it is silent about other properties it has none:
    a small model would go on with them for ever."""
    schema = {**tool.parameters, "type": "object"}
    return Constraint(kind="json", value=schema, strict=tool.strict, param=_param(tool), closed=not open_objects)


def _schema(found: Grammar) -> dict[str, Any]:
    """What is held of a schema."""
    held: dict[str, Any] = json.loads(found.text.partition("%json ")[2])
    held.pop("x-guidance", None)
    return held


def _needs_grammar(rules: AnswerRules) -> bool:
    """Whether a request asks for something that only a grammar holds."""
    use = rules.use
    strict = any(tool.strict for tool in use.callable)
    return use.mode == "required" or not use.parallel or strict or rules.budgeted


def _ruled(params: SamplingParams) -> bool:
    """Whether the request has rules that no grammar goes with."""
    probe = msgspec.structs.replace(params, grammar="start: /x/")
    try:
        check(probe, 1 << 31)
    except RequestError:
        return True
    return False


def _joined(first: Mapping[str, str], second: Mapping[str, str]) -> Mapping[str, str]:
    names = [each[LEFT_OUT] for each in (first, second) if LEFT_OUT in each]
    return {**first, **second, **({LEFT_OUT: "; ".join(names)} if names else {})}
