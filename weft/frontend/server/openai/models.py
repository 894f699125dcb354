"""ServedModel: what the front end knows of the model. Text to ids and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from weft.base.errors import RequestError
from weft.engine.core.limits import Limits
from weft.engine.text import Tokenizer
from weft.engine.text.marked_text import MarkedText, unmarked
from weft.frontend.chat.answer_grammar import Words
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.history import for_template
from weft.frontend.chat.reasoning_forms import Thinking, thinking_after
from weft.frontend.chat.tools import NO_TOOLS, ToolUse
from weft.frontend.server.openai.requests import MAX_TEMPLATE_ARGUMENTS, ChatFields, ChatRequest, Prompt
from weft.frontend.text_worker.handler import Handler, too_long
from weft.frontend.text_worker.jobs import Render
from weft.frontend.text_worker.texts import LocalTexts, Texts

GOES_ON = "<<weft: the message goes on here>> "
"""Stands after a last message that goes on while the template is filled in: its own text may stand anywhere, as in the
words that close it. A template that cuts blanks cuts this one's."""

OWN_ARGUMENTS = ("self", "messages", "tools", "documents", "add_generation_prompt", "named")
"""What chat_template_kwargs may not set, beside the names of the model's special tokens."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation's ids, and how an answer to them begins."""

    ids: list[int]
    thinking: Thinking


@dataclass(frozen=True, slots=True)
class Conversation:
    """`render`: makes the text of it. `continued`: the last message, where the answer goes on with it."""

    render: Render
    continued: str | None

    def text(self, rendered: str) -> str:
        """The prompt's, of what was rendered. RequestError: the template does not show the last message."""
        return rendered if self.continued is None else _up_to_mark(rendered)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`created`: seconds since 1970. `defaults`: sampling values of requests that name none. `aliases`: further names;
    answers have the first. `root`: what the model was loaded from, if that is not its name. `forms`: of tool calls and
    reasoning."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    created: int
    defaults: Mapping[str, float | int] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    root: str | None = None
    forms: ChatForms = field(default_factory=ChatForms)
    texts: Texts = field(init=False)
    """Does jobs with texts: short ones at once, the others in the text worker, where one is given."""
    text_worker: InitVar[Texts | None] = None
    _marks: MarkedText = field(init=False)

    def __post_init__(self, text_worker: Texts | None) -> None:
        object.__setattr__(self, "_marks", MarkedText(self.tokenizer))
        object.__setattr__(self, "texts", LocalTexts(Handler(self.tokenizer, self.vocab_size), text_worker))

    @property
    def names(self) -> tuple[str, ...]:
        """All that requests may call it by."""
        return (self.name, *self.aliases)

    @property
    def special_in_prompts(self) -> Literal["tokens", "text"]:
        """What special tokens are that a prompt's text writes out."""
        return "tokens" if self.forms.special_tokens_in_text else "text"

    @property
    def words(self) -> Words:
        """Tokens that grammars name."""
        return Words(ids=self.tokenizer.added_tokens, eos=frozenset(self.tokenizer.eos_token_ids))

    def warm_up(self) -> None:
        """What is made at first use, and takes tens of milliseconds: the first request should not wait for it."""
        self.tokenizer.longest_token  # noqa: B018
        with suppress(RequestError):  # a template may have none, or refuse so short a conversation
            greeting = self.conversation(ChatRequest(messages=[]), [{"role": "user", "content": "Hello"}])
            self.tokenizer.encode(self.texts.submit(greeting.render).result())

    @property
    def kept_ids(self) -> frozenset[int]:
        """Special tokens that an answer's parser needs to see."""
        added = self.tokenizer.added_tokens
        return frozenset(added[token] for token in self.forms.shown_tokens if token in added)

    def check_name(self, name: str | None) -> None:
        """RequestError 404 for another model; None is this one."""
        if name is not None and name not in self.names:
            known = ", ".join(f"'{each}'" for each in self.names)
            raise RequestError(
                f"the model '{name[:80]}' does not exist; this server has {known}",
                param="model",
                status=404,
                code="model_not_found",
            )

    def conversation(self, asked: ChatFields, messages: list[dict[str, Any]], use: ToolUse = NO_TOOLS) -> Conversation:
        """A conversation on its way to become a prompt."""
        tools, variables = use.offered if use.mode != "none" else (), self._variables(asked)
        if not self.forms.special_tokens_in_text:
            messages, variables = self._marks.mark(messages), self._marks.mark(variables)
            tools = tuple(tool.changed(self._marks.mark) for tool in tools)
        turns = for_template(messages, self.forms, tools)
        continued = None
        if asked.continue_final_message:
            last = str(turns[-1]["content"])
            continued, turns[-1] = unmarked(last), {**turns[-1], "content": last + GOES_ON}
        options = variables | {
            "tools": [tool.as_sent() for tool in tools] if tools and not self.forms.describes else None,
            "add_generation_prompt": not asked.continue_final_message and asked.add_generation_prompt is not False,
        }
        return Conversation(Render(turns, options), continued)

    def thinking(self, text: str, conversation: Conversation) -> Thinking:
        """How an answer to a conversation begins, whose prompt is `text`."""
        return thinking_after(unmarked(text), self.forms.reasoning, conversation.continued)

    def _variables(self, asked: ChatFields) -> dict[str, Any]:
        """What the template sees besides the conversation. Thinking goes under the name that it looks for."""
        variables: dict[str, Any] = dict(asked.chat_template_kwargs)
        if asked.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", asked.reasoning_effort)
        thinks = variables.get("enable_thinking", asked.enable_thinking)
        if thinks is None and asked.reasoning_effort is not None:
            thinks = asked.reasoning_effort != "none"
        if thinks is not None:
            variables.setdefault(self.forms.knows.switch or "enable_thinking", thinks)
        return variables

    def check_chat(self, asked: ChatFields) -> None:
        """RequestError: two turns that cannot both be the next, or arguments for the template that are its own, or too
        many."""
        if asked.continue_final_message and asked.add_generation_prompt:
            raise RequestError(
                "'add_generation_prompt' and 'continue_final_message' are both true: the answer begins a turn, or goes"
                " on with the last one; leave one of them out",
                param="continue_final_message",
                code="invalid_value",
            )
        arguments = asked.chat_template_kwargs
        own = {*OWN_ARGUMENTS, *self.tokenizer.chat_templates.variables}
        name = next((name for name in arguments if name in own or not name.isidentifier()), None)
        if name is not None or len(arguments) > MAX_TEMPLATE_ARGUMENTS:
            shown = f"'{name[:40]}'" if name is not None else f"{len(arguments)} entries"
            raise RequestError(
                f"'chat_template_kwargs' has {shown}; legal: at most {MAX_TEMPLATE_ARGUMENTS} names that the template"
                " does not get otherwise",
                param="chat_template_kwargs",
                code="invalid_value",
            )

    def check_bytes(self, texts: Sequence[str], max_model_len: int | None, param: str) -> None:
        """RequestError for a text that cannot fit into the context whatever its tokens are (None: any length will do);
        before tokenizing."""
        longest = self.tokenizer.longest_token
        if longest is None or max_model_len is None:
            return
        for text in texts:
            if len(text) > max_model_len * longest:
                raise RequestError(
                    f"'{param}' has {len(text)} characters, at least {len(text) // longest} tokens; the context is"
                    f" {max_model_len} tokens",
                    param=param,
                    code="context_length_exceeded",
                )

    def checked(self, ids: list[int], param: str) -> list[int]:
        """The ids; RequestError for one outside the vocabulary."""
        if ids and not (0 <= min(ids) and max(ids) < self.vocab_size):
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise RequestError(
                f"'{param}' holds token id {wrong}; legal: 0 to {self.vocab_size - 1}",
                param=param,
                code="invalid_value",
            )
        return ids


def prompts_of(prompt: Prompt) -> list[Any]:
    """One or several, as a list."""
    return [prompt] if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int) else list(prompt)


def _up_to_mark(text: str) -> str:
    """A rendered conversation without what the template closes its last message with; blanks at the message's end stay
    where the template leaves them alone."""
    before, mark, closing = text.rpartition(GOES_ON.rstrip())
    if not mark:
        raise RequestError(
            "'continue_final_message': the template does not show the last message as it is",
            param="continue_final_message",
            code="invalid_value",
        )
    return before if closing.startswith(" ") else before.rstrip()


def kept_of(limit: int | None, max_model_len: int) -> int | None:
    """How many of a prompt's last ids `truncate_prompt_tokens` keeps: -1 leaves room for one token of an answer."""
    return max_model_len - 1 if limit == -1 else limit


def truncated(ids: list[int], limit: int | None, max_model_len: int) -> list[int]:
    """The last ids, as many as `kept_of` says."""
    kept = kept_of(limit, max_model_len)
    return ids if kept is None else ids[-kept:]


@contextmanager
def saying_shortage(limits: Limits) -> Iterator[None]:
    """A prompt that is refused for its length says what leaves room for longer ones, where the KV cache does not."""
    try:
        yield
    except RequestError as error:
        if error.code != "context_length_exceeded" or not limits.shortage:
            raise
        raise RequestError(f"{error}; {limits.shortage}", param=error.param, code=error.code) from None


def check_length(ids: list[int], max_tokens: int | None, max_model_len: int, param: str) -> None:
    """RequestError with both numbers where the prompt, or prompt and answer, do not fit into the context."""
    if not ids:
        raise RequestError(f"'{param}' gives no tokens; at least 1 is needed", param=param, code="invalid_value")
    if len(ids) >= max_model_len:
        raise too_long(str(len(ids)), max_model_len, param)
    if max_tokens is not None and len(ids) + max_tokens > max_model_len:
        raise RequestError(
            f"'{param}' has {len(ids)} tokens and 'max_tokens' is {max_tokens}, {len(ids) + max_tokens} together;"
            f" the context is {max_model_len} tokens",
            param="max_tokens",
            code="context_length_exceeded",
        )
