"""Checkpoint: config, tensor table and tokenizer source of a model, read from file headers only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from weft.base.printable import printable
from weft.model.checkpoint.files import FileState
from weft.model.checkpoint.generation import end_ids
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.registry import parse_config

Json = dict[str, Any]


class TokenizerSource(msgspec.Struct, frozen=True):
    """What a tokenizer is built from: a tokenizer.json, or the `tokenizer.*` metadata of a GGUF file.

    config: tokenizer_config.json ({} for GGUF). chat_templates: by name, the usual one under "default". added_tokens:
    of added_tokens.json, token -> id. add_bos, add_eos: None leaves it to the tokenizer's own rule.
    """

    json_path: str | None = None
    gguf: Json | None = None
    config: Json = {}
    chat_templates: dict[str, str] = {}
    added_tokens: Json = {}
    add_bos: bool | None = None
    add_eos: bool | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """Config, tensor table and tokenizer source of one model.

    config: in the words of HF's config.json, also for GGUF. tensors: under HF names. ignored: names in the file that
    carry nothing the model needs (their content, if any, is in config already). notes: lines for a person, of what
    was read otherwise than the files say. states: by path, what each file with weights was when it was read.
    generation_file: the one that generation_config is from.
    """

    path: str
    kind: Literal["safetensors", "gguf"]
    config: Json
    tensors: dict[str, TensorInfo]
    generation_config: Json = {}
    tokenizer: TokenizerSource | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    states: dict[str, FileState] = {}
    generation_file: str = "generation_config.json"

    def table(self) -> bytes:
        """Everything but the tokenizer, for another process; see `from_table`."""
        return msgspec.msgpack.encode(msgspec.structs.replace(self, tokenizer=None))

    @classmethod
    def from_table(cls, table: bytes) -> Checkpoint:
        """The checkpoint that `table` was made from, without its tokenizer. Opens no file."""
        return msgspec.msgpack.decode(table, type=cls)

    def fingerprint(self) -> str:
        """A digest of config and tensor table (not of paths or weights), equal on every node that has this model."""
        rows = [(t.name, t.shape, t.dtype, t.offset, t.nbytes, t.heads) for _, t in sorted(self.tensors.items())]
        content = msgspec.json.encode((self.config, rows), order="sorted")
        return hashlib.sha256(content).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files' formats."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def model_config(self) -> ModelConfig:
        """The model's sizes and switches. FieldError: a field that cannot be."""
        return parse_config(self.config, f"{self.path}/config.json" if self.kind == "safetensors" else self.path)

    @property
    def generation_path(self) -> str:
        """Where generation_config was read."""
        return f"{self.path}/{self.generation_file}"

    def say_notes(self, say: Callable[[str], object]) -> None:
        """Says every note, each in one line that a terminal can show."""
        for note in self.notes:
            say(printable(note))

    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a sequence, from generation_config, else from config, sorted. FieldError for what is no id."""
        return end_ids(self.config, self.generation_config, self.path)
