"""What callers of the Python API may hand in, and what it becomes: prompts, conversations, layouts, engine options.

RequestError and ConfigError name the argument and what is needed in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from weft.base.errors import ConfigError, RequestError, UsageError
from weft.base.options import parse_bytes, removed
from weft.base.settings import EngineConfig, engine_settings
from weft.base.step.sampling_params import SamplingParams, check, with_logprobs
from weft.compute.grammars.constraints import Grammar
from weft.compute.grammars.structured import constraint_of_outputs
from weft.engine.core.limits import max_logprobs
from weft.engine.text.bad_words import bad_runs, with_bad_runs
from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import CheckGrammar
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.hub.paths import model_path
from weft.model.checkpoint.integrity.check import check_hashes
from weft.parallel.arch.fit import resolve_for
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import flatten, load_given
from weft.runtime.launch_plan.hosts import HostResources, HostsConfig
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.hosts.agent_pool import AgentPool
from weft.runtime.supervisor.hosts.opening import open_hosts

Prompt = str | Sequence[int]
"""Text, or token ids."""
Messages = Sequence[Mapping[str, Any]]
"""A conversation, as in OpenAI's API."""
T = TypeVar("T")

LayoutLike = Layout | Mapping[str, object] | str | os.PathLike[str]
"""A layout, its fields (dotted or nested), or the path of a layout document."""


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt as a list of one; token ids are one prompt. RequestError: neither text nor ids."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        raise RequestError(f"prompts {prompts!r}: text, token ids, or a list of these are needed", param="prompt")
    parts: list[object] = list(prompts)
    if parts and not isinstance(parts[0], str | Sequence | Mapping):
        return [cast("list[int]", parts)]  # ids; admission judges each
    for part in parts:
        if not isinstance(part, str | Sequence) or isinstance(part, bytes):
            raise RequestError(f"prompt {part!r}: text or a list of token ids is needed", param="prompt")
    return cast("list[Prompt]", parts)


def only(given: Sequence[T], what: str) -> T:
    """What is in a list of one. RequestError: there are more, or none."""
    if len(given) != 1:
        raise RequestError(
            f"a stream is of one {what}, got {len(given)}; generate and chat take several", param="prompt"
        )
    return given[0]


def as_conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """One conversation as a list of one. RequestError: a message without a role or text."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(f"messages {messages!r}: a list of messages is needed", param="messages")
    one = not messages or isinstance(messages[0], Mapping)
    found = cast("list[Messages]", [messages] if one else list(messages))
    for conversation in found:
        _check_conversation(conversation)
    return found


def _check_conversation(messages: Messages) -> None:
    """RequestError: no messages, or one without a role or text."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise RequestError(f"messages {messages!r}: a list of at least one message is needed", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{place}] {message!r}: a mapping is needed", param="messages")
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise RequestError(
                    f"messages[{place}].{field} {message.get(field)!r}: text is needed",
                    param=f"messages[{place}].{field}",
                )


def check_params(params: SamplingParams, vocab_size: int, config: EngineConfig) -> None:
    """RequestError: one is out of its range, or more than the engine allows."""
    check(params, vocab_size)
    with_logprobs(params, max_logprobs(config, vocab_size))


def as_params(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int, default: SamplingParams
) -> list[SamplingParams]:
    """One for each of `count` prompts; `default` where none are given. RequestError: another number of them."""
    if params is None or isinstance(params, SamplingParams):
        return [params or default] * count
    if not isinstance(params, Sequence) or not all(isinstance(one, SamplingParams) for one in params):
        raise RequestError(f"params {params!r}: SamplingParams, or a list of them, are needed", param="params")
    if len(params) != count:
        raise RequestError(f"{len(params)} SamplingParams for {count} prompts", param="params")
    return list(params)


def engine_params(texts: Handler, params: Sequence[SamplingParams], vocab_size: int) -> list[SamplingParams]:
    """As the engine takes them. RequestError: one is out of its range, or asks for what cannot be."""
    for one in params:
        check(one, vocab_size)
    ruled = [with_bad_runs(one, bad_runs(texts.tokenizer, one.bad_words), vocab_size) for one in params]
    return [_with_grammar(texts, one) for one in ruled]


def _with_grammar(texts: Handler, params: SamplingParams) -> SamplingParams:
    """`params` with the grammar of its `structured_outputs`. RequestError: there is none."""
    if params.structured_outputs is None:
        return params
    if params.grammar is not None:
        raise RequestError("structured_outputs and grammar say the same; give one of them", param="grammar")
    found: Grammar = texts.do(CheckGrammar(constraint_of_outputs(params.structured_outputs)))
    return msgspec.structs.replace(params, structured_outputs=None, grammar=found.text)


def as_given(layout: LayoutLike | None, nnodes: int | None = None) -> Mapping[str, object]:
    """The sizes that a layout argument and `nnodes` state. ConfigError: neither a mapping nor a file."""
    if nnodes is not None:
        return {**as_given(layout), "nodes": nnodes}
    if layout is None:
        return {}
    if isinstance(layout, Mapping):
        return flatten(layout)
    if not isinstance(layout, str | os.PathLike):
        raise ConfigError(f"layout {layout!r}: a mapping, a file or a Layout is needed", field="layout", value=layout)
    return load_given(Path(layout))


def check_given_once(
    model: object, verify_checkpoint: str | None, layout: object, world_size: int | None, tp: int | None
) -> None:
    """UsageError: an argument says what another one has already."""
    if isinstance(layout, Layout) and (tp is not None or world_size is not None):
        raise UsageError("a resolved layout has its sizes: leave tp and world_size out")
    if isinstance(model, Checkpoint) and verify_checkpoint is not None:
        raise UsageError("an open checkpoint is taken as it is: leave verify_checkpoint out, or give its path")


def as_checkpoint(
    model: Checkpoint | str | os.PathLike[str] | None, verify: str | None, say: Callable[[str], None]
) -> Checkpoint:
    """Opened, and its hashes checked. CheckpointError: it cannot be read."""
    if isinstance(model, Checkpoint):
        return model
    checkpoint = open_checkpoint(model_path(model))
    check_hashes(checkpoint, verify or "auto")
    checkpoint.say_notes(say)
    return checkpoint


def as_layout(
    layout: LayoutLike | None, checkpoint: Checkpoint, nnodes: int | None, world_size: int | None, tp: int | None
) -> Layout:
    """Resolved for the model. LayoutError: it cannot be."""
    if isinstance(layout, Layout):
        return layout
    return resolve_for(checkpoint.model_config(), as_given(layout, nnodes), world_size, tp)


def as_engine_config(config: EngineConfig | None, values: Mapping[str, Any]) -> EngineConfig:
    """EngineConfig of the keyword arguments, or the one given. ConfigError: an unknown name, or both."""
    if config is not None:
        if values:
            raise ConfigError(f"config and {next(iter(values))} both set engine options; give one of them")
        if not isinstance(config, EngineConfig):
            raise ConfigError(f"config {config!r}: an EngineConfig is needed", field="config", value=config)
        return config
    legal = [setting.name for setting in engine_settings()]
    unknown = sorted(set(values) - set(legal))
    if unknown:
        why = removed(unknown[0]) or f"LLM has no such option; engine options: {', '.join(legal)}"
        raise ConfigError(f"{unknown[0]}: {why}", field=unknown[0], legal=legal)
    if isinstance(cache := values.get("kv_cache_memory"), str):
        try:
            values = {**values, "kv_cache_memory": parse_bytes(cache)}
        except ValueError:
            raise ConfigError(
                f"kv_cache_memory {cache!r}: bytes, or a size such as 2GiB or 512MiB",
                field="kv_cache_memory",
                value=cache,
            ) from None
    return EngineConfig(**values)


def meet_hosts(
    hosts: HostsConfig | None,
    layout: Layout,
    settings: EngineConfig,
    checkpoint: Checkpoint,
    comm: str,
    say: Callable[[str], None],
) -> tuple[AgentPool | None, list[HostResources]]:
    """The other hosts of the layout, once they are here."""
    config = hosts or HostsConfig()
    config = replace(config, node_rank=0) if config.node_rank is None and layout.nodes > 1 else config
    config.check(layout)
    if config.node_rank:
        raise UsageError("weft.LLM is for host 0; other hosts run weft serve with their --node-rank")
    if layout.nodes == 1:
        return None, []
    return open_hosts(config, layout, settings, checkpoint, comm, ProcessLimits().join_limit, say)
