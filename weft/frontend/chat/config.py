"""ChatConfig: which forms of tool calls and reasoning are read. ChatForms: what that means for a model's template."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.base.options import Setting, check_fields, option, settings_of
from weft.frontend.chat.reasoning_forms import ALSO_CALLED as ALSO_REASONING
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, ReasoningForm, reasoning_named
from weft.frontend.chat.template_probe import TemplateKnows
from weft.frontend.chat.tool_forms import ALSO_CALLED as ALSO_TOOLS
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm, form_named

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """As given; unknown names raise ConfigError."""

    tool_call_parser: str = option(
        AUTO,
        "form of the model's tool calls; auto: as its chat template writes them, or Hermes's, described in the system"
        " message; none: requests with tools are refused",
        "--tool-call-parser",
        choices=(AUTO, NONE, *TOOL_FORMS, *ALSO_TOOLS),
        metavar="NAME",
    )
    reasoning_parser: str = option(
        AUTO,
        "form of the model's reasoning; auto: as its chat template or its vocabulary has it; none: reasoning is part of"
        " the text",
        "--reasoning-parser",
        choices=(AUTO, NONE, *REASONING_FORMS, *ALSO_REASONING),
        metavar="NAME",
        expert=True,
    )

    open_objects: bool = option(
        False,
        "objects of tools and of response_format without strict may have properties that their schema does not name",
        "--open-objects",
        expert=True,
    )

    special_tokens_in_text: bool = option(
        True,
        "special tokens that are written out in messages and prompts are these tokens; else they are text",
        "--special-tokens-in-text",
        expert=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)


def chat_settings() -> tuple[Setting, ...]:
    """The options, in their order."""
    return settings_of(ChatConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatForms:
    """`tools`: None: requests with tools are refused. `describes`: tools are described in the system message, and calls
    of the conversation written as text where the template has another form for them."""

    knows: TemplateKnows = TemplateKnows()
    tools: ToolForm | None = None
    reasoning: ReasoningForm | None = None
    describes: bool = True
    open_objects: bool = False
    """Objects whose schema is silent about further properties may have some."""
    special_tokens_in_text: bool = True
    """Special tokens that users write out are these tokens."""

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        """Tokens whose text is needed, although they are special."""
        return (*(self.tools.tokens if self.tools else ()), *(self.reasoning.tokens if self.reasoning else ()))

    def lines(self) -> list[str]:
        """What start-up says."""
        made = []
        if self.tools is not None and self.describes:
            why = "whose form is unknown" if self.knows.tools and self.knows.form is None else "none"
            made.append(
                f"tools: the chat template knows {why}; they are described in the system message, in the form"
                f" {self.tools.name} (--tool-call-parser none refuses them)"
            )
        elif self.tools is not None:
            made.append(f"tools: in the form {self.tools.name}, as the chat template shows them")
        if self.reasoning is not None:
            made.append(f"reasoning: in the form {self.reasoning.name}; answers have it as reasoning_content")
        return made


def chat_forms(knows: TemplateKnows | None, config: ChatConfig) -> ChatForms:
    """For a model whose template `knows`; None: it has none."""
    forms = ChatForms() if knows is None else chosen(knows, config)
    return replace(forms, open_objects=config.open_objects, special_tokens_in_text=config.special_tokens_in_text)


def chosen(knows: TemplateKnows, config: ChatConfig) -> ChatForms:
    """What the options make of what a template knows."""
    reasoning = knows.reasoning
    if config.reasoning_parser != AUTO:
        reasoning = reasoning_named(config.reasoning_parser)
    if config.tool_call_parser == NONE:
        return ChatForms(knows=knows, reasoning=reasoning)
    form = knows.form if config.tool_call_parser == AUTO else form_named(config.tool_call_parser)
    describes = not knows.tools or form is None or knows.form not in (None, form)
    form = form or TOOL_FORMS["hermes"]
    if form.in_channels and reasoning is None:
        reasoning = REASONING_FORMS["gpt_oss"]  # an answer's own text stands in a channel, too
    if not knows.several:
        form = replace(form, parallel=False)
    return ChatForms(knows=knows, tools=form, reasoning=reasoning, describes=describes)
