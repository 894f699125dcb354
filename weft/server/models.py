"""ServedModel: what the front end knows of the model. Text to ids and back; knows no engine and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.errors import RequestError
from weft.server.requests import Prompt
from weft.text import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`created`: seconds since 1970. `defaults`: sampling values of requests that name none."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    created: int
    defaults: Mapping[str, float | int] = field(default_factory=dict)

    def check_name(self, name: str | None) -> None:
        """RequestError 404 for another model; None is this one."""
        if name is not None and name != self.name:
            raise RequestError(
                f"the model '{name[:200]}' does not exist; this server has '{self.name}'",
                param="model",
                status=404,
                code="model_not_found",
            )

    def chat_ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of a conversation up to the assistant's turn. RequestError: the template refuses it."""
        return self.tokenizer.encode_chat(messages)

    def prompt_ids(self, prompt: Prompt) -> list[list[int]]:
        """Ids of each prompt; ids outside the vocabulary are refused."""
        prompts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)
        return [self.tokenizer.encode(one) if isinstance(one, str) else self._checked(one) for one in prompts]

    def _checked(self, ids: list[int]) -> list[int]:
        wrong = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"'prompt' holds token id {wrong}; legal: 0 to {self.vocab_size - 1}",
                param="prompt",
                code="invalid_value",
            )
        return ids


def number_of_prompts(prompt: Prompt) -> int:
    """Without a look at their length in tokens."""
    return 1 if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int) else len(prompt)


def check_length(ids: list[int], max_tokens: int | None, max_model_len: int, param: str) -> None:
    """RequestError with both numbers where the prompt, or prompt and answer, do not fit into the context."""
    if not ids:
        raise RequestError(f"'{param}' gives no tokens; at least 1 is needed", param=param, code="invalid_value")
    if len(ids) >= max_model_len:
        raise RequestError(
            f"'{param}' has {len(ids)} tokens; the context is {max_model_len} tokens,"
            f" so at most {max_model_len - 1} leave room for an answer",
            param=param,
            code="context_length_exceeded",
        )
    if max_tokens is not None and len(ids) + max_tokens > max_model_len:
        raise RequestError(
            f"'{param}' has {len(ids)} tokens and max_tokens is {max_tokens}, {len(ids) + max_tokens} together;"
            f" the context is {max_model_len} tokens",
            param="max_tokens",
            code="context_length_exceeded",
        )
