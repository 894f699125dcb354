"""Checkpoint: config, tensor table and tokenizer source of a model, read from file headers only."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from weft.checkpoint.tensors import TensorInfo
from weft.errors import CheckpointError

Json = dict[str, Any]


class TokenizerSource(msgspec.Struct, frozen=True):
    """What a tokenizer is built from: a tokenizer.json, or the `tokenizer.*` metadata of a GGUF file.

    config: tokenizer_config.json ({} for GGUF). chat_templates: by name, the usual one under "default".
    """

    json_path: str | None = None
    gguf: Json | None = None
    config: Json = {}
    chat_templates: dict[str, str] = {}


class Checkpoint(msgspec.Struct, frozen=True):
    """Config, tensor table and tokenizer source of one model.

    config: in the words of HF's config.json, also for GGUF. tensors: under HF names. ignored: names in the file that
    carry nothing the model needs (their content, if any, is in config already).
    """

    path: str
    kind: Literal["safetensors", "gguf"]
    config: Json
    tensors: dict[str, TensorInfo]
    generation_config: Json = {}
    tokenizer: TokenizerSource | None = None
    ignored: tuple[str, ...] = ()

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

    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a sequence, from generation_config and config, sorted. CheckpointError for what is no id."""
        ids: set[int] = set()
        for source in (self.generation_config, self.config):
            value = source.get("eos_token_id")
            given = value if isinstance(value, list | tuple) else () if value is None else (value,)
            if not all(type(id) is int for id in given):
                raise CheckpointError(
                    f"checkpoint {self.path}: eos_token_id {value!r}: an id or a list of ids is needed"
                )
            ids.update(given)
        return tuple(sorted(ids))
