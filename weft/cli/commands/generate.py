"""`weft generate`: answers prompts on the terminal, without a server, by the same engine. Imports no torch.
The answer goes to stdout as it comes; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from weft.base.errors import UsageError
from weft.base.log import configure
from weft.base.plural import counted
from weft.base.step.defaults import recommended
from weft.base.step.sampling_params import SamplingParams
from weft.cli.args.checkpoints import opened
from weft.cli.args.hosts import add_hosts_arguments, is_agent, met_hosts, run_agent
from weft.cli.args.model import (
    add_engine_arguments,
    add_layout_arguments,
    add_revision,
    add_verify_checkpoint,
    engine_config_from,
    layout_from,
)
from weft.cli.args.parser import Expert
from weft.cli.args.ranks import add_comm_argument, say_native
from weft.cli.args.structured import add_structured_flags, structured_from
from weft.cli.view.answers import SCHEMA, document, print_answers
from weft.cli.view.say import say, shown_text
from weft.engine.text import Tokenizer
from weft.frontend.llm import LLM
from weft.frontend.llm_inputs import check_params
from weft.frontend.llm_outputs import Result
from weft.frontend.text_worker.client import TextWorker
from weft.frontend.text_worker.jobs import Begin
from weft.frontend.text_worker.templates import take_tried, try_templates
from weft.frontend.text_worker.texts import Texts
from weft.model.checkpoint import Checkpoint
from weft.model.checkpoint.hub.names import hub_model
from weft.model.checkpoint.hub.paths import shown_name
from weft.runtime.ipc.phases import PhaseChange
from weft.runtime.supervisor.start import Listener

MAX_TOKENS = 512

ELSEWHERE = (
    "seed", "prompt_logprobs", "skip_special_tokens", "bad_token_ids", "priority", "cache_salt",
    "logprob_token_ids", "grammar", "structured_outputs",
)  # fmt: skip
"""The engine's --seed serves: an answer without a seed of its own follows from it. The prompt's own log-probabilities,
those of tokens by id and the spelling of special tokens exist in the server only. Bad words are texts here; there is
no queue, so no priority."""
_HELP = {
    "n": "outputs of each prompt",
    "temperature": "0 takes the likeliest token (default: the model's own, else 0)",
    "top_p": "sample from the smallest set of tokens with this probability",
    "top_k": "sample from the K likeliest tokens; 0: all",
    "min_p": "sample from tokens at least this fraction as likely as the likeliest",
    "seed": "of the random numbers",
    "stop": "text that ends an answer (repeatable)",
    "stop_token_ids": "token id that ends an answer (repeatable)",
    "max_tokens": f"longest answer, in tokens (default: {MAX_TOKENS})",
    "min_tokens": "shortest answer, in tokens",
    "ignore_eos": "go on after the model's own end",
    "presence_penalty": "lowers the logits of tokens that occurred",
    "frequency_penalty": "lowers the logits of tokens, for each time that they occurred",
    "repetition_penalty": "divides the logits of tokens that occurred, prompt included",
    "logit_bias": "number added to the logit of a token id (repeatable)",
    "allowed_token_ids": "only this token id may be sampled (repeatable)",
    "bad_words": "word that may not occur (repeatable)",
    "logprobs": "with --json: log-probabilities, with N alternatives",
    "include_stop_str_in_output": "keep the text that ended the answer",
}


_FOR_EXPERTS = (
    "min_tokens",
    "stop_token_ids",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "include_stop_str_in_output",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words, layout and engine options, and one option for each field of SamplingParams."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[MODEL] PROMPT",
        help="MODEL, if the first word is an existing directory or file, or a hub id (org/name) before a prompt, else"
        " the embedded model answers; then prompts (none: stdin is the prompt)",
    )
    add_revision(parser)
    add_verify_checkpoint(parser)
    add_layout_arguments(parser)
    add_engine_arguments(parser)
    add_comm_argument(parser)
    add_hosts_arguments(parser)
    group = parser.add_argument_group("sampling")
    hints = get_type_hints(SamplingParams)
    for name in SamplingParams.__struct_fields__:
        if name not in ELSEWHERE:
            _add_sampling_flag(group, name, hints[name])
    add_structured_flags(parser)
    group = parser.add_argument_group("prompt and output")
    group.add_argument("--raw", action="store_true", help="continue the text itself, without the chat template")
    group.add_argument("--system", metavar="TEXT", help="system message before each prompt")
    group.add_argument("--json", action="store_true", help=f"print JSON, schema {SCHEMA}, when all is done")


def _add_sampling_flag(group: argparse._ActionsContainer, name: str, hint: Any) -> None:
    flag, text = "--" + name.replace("_", "-"), Expert(_HELP[name]) if name in _FOR_EXPERTS else _HELP[name]
    kind = next(each for each in get_args(hint) if each is not types.NoneType) if _is_union(hint) else hint
    settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
    if kind is bool:
        group.add_argument(flag, action="store_true", **settings)
    elif get_origin(kind) is tuple:
        item = _biased if name == "logit_bias" else get_args(kind)[0]
        metavar = "ID:BIAS" if name == "logit_bias" else "ID" if item is int else "TEXT"
        group.add_argument(flag, action="append", type=item, metavar=metavar, **settings)
    else:
        group.add_argument(flag, type=kind, metavar="N" if kind is int else "X", **settings)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _biased(word: str) -> tuple[int, float]:
    token, _, bias = word.partition(":")
    try:
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not ID:BIAS") from None


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    configure()
    if is_agent(args):
        return _run_agent(args)
    model, prompts = _words(args.words, args.revision)
    if "logprobs" in args and not args.json:
        raise UsageError("--logprobs: only with --json")
    engine = engine_config_from(args)
    say_native(_say)
    checkpoint = opened(args, model, _say)
    name = (*engine.served_names, shown_name(model, checkpoint.path))[0]
    config = checkpoint.model_config()
    layout = layout_from(args, config)
    params = _params(args, recommended(checkpoint.generation_config, checkpoint.generation_path))
    check_params(params, config.vocab_size, engine)
    with contextlib.closing(TextWorker(Begin.of(checkpoint, config.vocab_size))) as texts:
        given, chat = _given(args, checkpoint, texts, prompts)
        starting = _once(f"starting {counted(layout.world, 'rank')} of {name}")
        met = met_hosts(args, layout, engine, checkpoint, _say)
        with LLM(
            checkpoint, layout=layout, comm=args.comm, config=engine, listener=starting, met=met, text_worker=texts
        ) as llm:
            for hint in llm.plan.hints():
                _say(hint)
            if args.json:
                answers = document(name, llm.plan.layout, _results(llm, given, params, chat=chat))
                print(json.dumps(answers, ensure_ascii=False, indent=2))
            elif len(given) == 1 and params.n == 1:
                _stream(llm, given[0], params, chat=chat)
            else:
                print_answers(prompts, _results(llm, given, params, chat=chat))
    return 0


def _given(
    args: argparse.Namespace, checkpoint: Checkpoint, texts: Texts, prompts: Sequence[str]
) -> tuple[list[Any], bool]:
    """What the model gets, and whether that is conversations."""
    tried = try_templates(texts, checkpoint.path, templates=not args.raw)
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    take_tried(tokenizer, tried, _say)
    chat = tokenizer.has_chat_template and not args.raw
    if not chat and args.system is not None:
        raise UsageError("--system: needs a model with a chat template, and no --raw")
    if not chat and not args.raw:
        _say("the model has no chat template: the text itself is continued, as with --raw")
    return [_conversation(prompt, args.system) if chat else prompt for prompt in prompts], chat


def _run_agent(args: argparse.Namespace) -> int:
    """This host's agent; the prompts are host 0's."""
    engine = engine_config_from(args)
    say_native(_say)
    checkpoint = opened(args, _model_word(args.words, args.revision), _say)
    return run_agent(args, layout_from(args, checkpoint.model_config()), engine, checkpoint, _say)


def _once(line: str) -> Listener:
    """Prints `line` once, when a rank enters its first phase. Called from the threads of all replicas."""
    lines = [line]

    def entered(change: PhaseChange) -> None:
        with contextlib.suppress(IndexError):
            _say(lines.pop())

    return entered


def _words(words: Sequence[str], revision: str | None) -> tuple[str | None, list[str]]:
    """MODEL, if the first word is one; and the prompts."""
    model = _model_word(words, revision)
    if len(words) > 1 and model is None and words[0].startswith(("/", "./", "../", "~")):
        raise UsageError(
            f"{words[0]}: no such directory or .gguf file (give MODEL first for a prompt that begins like this)"
        )
    prompts = list(words[1:] if model is not None else words)
    if not prompts:
        if sys.stdin.isatty():
            raise UsageError("no prompt: give one, or pipe one in")
        prompts = [_piped()]
        if not prompts[0]:
            raise UsageError("no prompt: none was given, and stdin is empty")
    if not all(prompts):
        raise UsageError("a prompt is empty")
    return model, prompts


def _model_word(words: Sequence[str], revision: str | None) -> str | None:
    """The first word, if it is a path that exists or, before a prompt, a hub id."""
    # os.path, not Path: a prompt may be longer than the limit of file names.
    is_path = bool(words) and (os.path.isdir(words[0]) or words[0].endswith(".gguf"))
    is_id = (len(words) > 1 or revision is not None) and bool(words) and hub_model(words[0]) is not None
    return words[0] if is_path or is_id else None


def _piped() -> str:
    try:
        text = sys.stdin.read()
        text.encode()  # where the locale has no UTF-8, other bytes are read, too
    except UnicodeError:
        raise UsageError("stdin: not UTF-8 text") from None
    return text


def _params(args: argparse.Namespace, advised: Mapping[str, float | int]) -> SamplingParams:
    """What was asked for, over what the model recommends, over greedy answers of moderate length."""
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(args).items()
        if name in SamplingParams.__struct_fields__
    }
    given.pop("grammar", None)  # a file here
    values: dict[str, Any] = {"temperature": 0.0, "max_tokens": MAX_TOKENS, **advised, **given}
    return SamplingParams(**values, structured_outputs=structured_from(args))


def _conversation(prompt: str, system: str | None) -> list[dict[str, str]]:
    user = {"role": "user", "content": prompt}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def _results(llm: LLM, given: Sequence[Any], params: SamplingParams, *, chat: bool) -> list[Result]:
    return llm.chat(given, params) if chat else llm.generate(given, params)


def _stream(llm: LLM, prompt: Any, params: SamplingParams, *, chat: bool) -> None:
    for _, piece in llm.stream(prompt, params, chat=chat):
        print(shown_text(piece.text), end="", flush=True)
    sys.stdout.write("\n")


def _say(line: str) -> None:
    say(line, sys.stderr)
