"""Workload: the requests of a run, the same for the same seed. Knows vocabularies and files, no server.

Lengths are in tokens. Where no vocabulary is known, a prompt is text of short common words, about a token each; how
many tokens the server counted is reported beside every run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.base.errors import ConfigError
from weft.engine.text import Tokenizer
from weft.tools.bench.settings import BenchSettings

Messages = list[dict[str, Any]]

WORDS = (
    "the of and to in is was for that on as with by at from it an be this are or his not but have had they which one"
    " you were all her she there would their we him been has when who will more no if out so up said what about than"
    " into them can only other time new some could these two may first then do any like my now over such our man even"
    " most made after also did many off before must well back through years much where your way down should because"
    " long each just state people those too mr how little good world make very year still see own work men day"
).split()


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One request: text, ids or a conversation, and the longest answer."""

    prompt: str | tuple[int, ...] | Messages
    output_len: int


class Workload:
    """Makes requests. `tokenizer`, `vocab_size`: of the model that is measured, where they are known."""

    def __init__(self, settings: BenchSettings, tokenizer: Tokenizer | None = None, vocab_size: int = 0) -> None:
        self.settings = settings
        self._tokenizer, self._as_ids = tokenizer, _as_ids(settings, tokenizer)
        special = tokenizer.special_ids if tokenizer is not None else frozenset()
        self._ids = [token for token in range(vocab_size) if token not in special]
        self.lines = read_lines(settings.path, settings) if settings.path is not None else None

    def check_length(self, context: int) -> None:
        """ConfigError: requests made here, of token ids, may need more than `context` tokens with their answers. What
        text comes to only the server knows, and a file's requests are its own."""
        settings = self.settings
        if not self._as_ids or self.lines is not None:
            return
        prompt = _most(settings.input_len, settings.range_ratio)
        prompt += settings.prefix_len if settings.workload == "shared-prefix" else 0
        answer = _most(settings.output_len, settings.range_ratio)
        if prompt + answer > context:
            names = ("prefix_len",) if settings.workload == "shared-prefix" else ()
            field = max(("input_len", "output_len", *names), key=lambda name: getattr(settings, name))
            varied = f" (range_ratio {settings.range_ratio:g})" if settings.range_ratio else ""
            raise ConfigError(
                f"{field} {getattr(settings, field)}: a prompt of {prompt} tokens and an answer of {answer}{varied} are"
                f" {prompt + answer} together; the context is {context} tokens",
                field=field,
                value=getattr(settings, field),
            )

    def requests(self, count: int, *salt: object) -> list[BenchRequest]:
        """`count` requests; another `salt` gives others, so that no run finds the last one's prompts in a cache."""
        draw = random.Random(" ".join(map(str, (self.settings.seed, *salt))))
        if self.lines is not None:
            return [self.lines[number % len(self.lines)] for number in range(count)]
        prefixes = self._prefixes(draw)
        return [self._request(draw, prefixes[draw.randrange(len(prefixes))] if prefixes else []) for _ in range(count)]

    def _prefixes(self, draw: random.Random) -> list[list[Any]]:
        settings = self.settings
        if settings.workload != "shared-prefix":
            return []
        return [self._tokens(draw, settings.prefix_len) for _ in range(settings.num_prefixes)]

    def _request(self, draw: random.Random, prefix: list[Any]) -> BenchRequest:
        settings = self.settings
        tokens = prefix + self._tokens(draw, _varied(draw, settings.input_len, settings.range_ratio))
        output_len = _varied(draw, settings.output_len, settings.range_ratio)
        prompt = tuple(tokens) if self._as_ids else self._text(tokens)
        if settings.endpoint == "chat":
            return BenchRequest([{"role": "user", "content": prompt}], output_len)
        return BenchRequest(prompt, output_len)

    def _tokens(self, draw: random.Random, count: int) -> list[Any]:
        """Ids where a vocabulary is known, else words."""
        return draw.choices(self._ids, k=count) if self._ids else draw.choices(WORDS, k=count)

    def _text(self, tokens: Sequence[Any]) -> str:
        if not self._ids or self._tokenizer is None:
            return " ".join(tokens)
        # Random ids rarely spell what they came from: once more through the tokenizer, cut to the length asked for.
        text = self._tokenizer.decode(list(tokens))
        return self._tokenizer.decode(self._tokenizer.encode(text, add_special_tokens=False)[: len(tokens)])


def _as_ids(settings: BenchSettings, tokenizer: Tokenizer | None) -> bool:
    if settings.prompts_as == "ids" and tokenizer is None:
        raise ConfigError(
            "prompts_as ids: the vocabulary is not known; name the model with --tokenizer, or take text",
            field="prompts_as",
            value="ids",
            legal=("text", "auto"),
        )
    if settings.prompts_as == "auto":
        return tokenizer is not None and settings.endpoint == "completions"
    return settings.prompts_as == "ids"


def _most(length: int, ratio: float) -> int:
    return round(length * (1 + ratio))


def _varied(draw: random.Random, length: int, ratio: float) -> int:
    return max(1, draw.randint(round(length * (1 - ratio)), _most(length, ratio)))


def read_lines(path: Path, settings: BenchSettings) -> list[BenchRequest]:
    """The requests of a file of JSON lines; ConfigError names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"file {path}: {reason}", field="file", value=str(path)) from None
    requests = list(_lines(path, text, settings))
    if not requests:
        raise ConfigError(f"file {path}: has no line", field="file", value=str(path))
    return requests


def _lines(path: Path, text: str, settings: BenchSettings) -> Iterator[BenchRequest]:
    for number, line in enumerate(text.split("\n"), 1):  # JSON has other ends of lines inside its strings
        if line.strip():
            try:
                yield _line(json.loads(line), settings)
            except ValueError as error:
                raise ConfigError(f"file {path}, line {number}: {error}", field="file", value=str(path)) from None


def _line(value: object, settings: BenchSettings) -> BenchRequest:
    if not isinstance(value, dict):
        raise ValueError("a JSON object is needed")
    output_len = value.get("output_len", value.get("max_tokens", settings.output_len))
    if type(output_len) is not int or output_len < 1:
        raise ValueError(f"output_len {output_len!r}: a whole number, at least 1, is needed")
    wanted = "messages" if settings.endpoint == "chat" else "prompt"
    if settings.endpoint == "chat" and "messages" not in value and isinstance(value.get("prompt"), str):
        return BenchRequest([{"role": "user", "content": value["prompt"]}], output_len)
    prompt = value.get(wanted)
    if wanted == "messages":
        if not isinstance(prompt, list) or not prompt or not all(isinstance(item, dict) for item in prompt):
            raise ValueError("a list of messages, or a prompt of text, is needed")
        return BenchRequest(prompt, output_len)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return BenchRequest(tuple(prompt), output_len)
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("a prompt of text or token ids is needed")
    return BenchRequest(prompt, output_len)
