"""open_gguf: a GGUF model as a checkpoint, a config in HF's words and tensors under HF's names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from weft.base.fields import Fields
from weft.base.weight_formats import kept_blocks
from weft.model.checkpoint.checkpoint import Checkpoint, Json, TokenizerSource
from weft.model.checkpoint.forms.counts import count_faults
from weft.model.checkpoint.forms.fused import split_modules
from weft.model.checkpoint.gguf.config import gguf_config
from weft.model.checkpoint.gguf.names import BLOCK, named
from weft.model.checkpoint.gguf.parts import GgufModel, read_gguf
from weft.model.checkpoint.tensors import TensorInfo, raise_all
from weft.parallel.arch.families.registry import FAMILIES, parse_config

COLUMNS_CUT = re.compile(r".*\.ffn_down(_shexp)?\..*")
"""Their columns are the intermediate ones; o_proj follows attention's heads, everything else is cut by rows, and no
block of routed experts is kept."""


def open_gguf(path: Path) -> Checkpoint:
    """Checkpoint of the .gguf file `path`, or of all parts where it is one; CheckpointError with all that weft cannot
    serve in it."""
    header = read_gguf(path)
    config, problems = gguf_config(header)
    raise_all(str(path), [f"{path}: {problem}" for problem in problems])
    family = FAMILIES[config["model_type"]]
    model = parse_config(config, str(path))
    tensors, ignored = named(header.tensors, family, config)
    tensors = split_modules(tensors, family.names, model)
    problems = _vocabulary_faults(header, config)
    if any(BLOCK.fullmatch(tensor.source) for tensor in header.tensors):
        problems += count_faults(str(path), config, model, tensors, family)
    raise_all(str(path), problems)
    return Checkpoint(
        path=str(path),
        kind="gguf",
        config={**config, "weft_column_block": _column_block(header.tensors)},
        tensors=tensors,
        tokenizer=_tokenizer(path, header.metadata),
        ignored=tuple(ignored),
        states=header.states,
    )


def _vocabulary_faults(header: GgufModel, config: Json) -> list[str]:
    """Where sizes of the vocabulary in the metadata are not the embedding's rows."""
    rows, arch = config["vocab_size"], header.metadata["general.architecture"]
    said, tokens = header.metadata.get(f"{arch}.vocab_size", rows), header.metadata.get("tokenizer.ggml.tokens", ())
    found = []
    if said != rows:
        found.append(f"metadata key {arch}.vocab_size {said}: token_embd.weight has {rows} rows; legal: {rows}")
    if isinstance(tokens, list) and len(tokens) > rows:
        found.append(f"metadata key tokenizer.ggml.tokens: {len(tokens)} tokens; token_embd.weight has {rows} rows")
    return found


def _column_block(tensors: Iterable[TensorInfo]) -> int:
    """Columns that every matrix whose columns a layout may divide keeps together: its format's block, where matrices
    can stay in it."""
    kept = kept_blocks()
    return math.lcm(
        *(kept[each.dtype].numbers for each in tensors if COLUMNS_CUT.fullmatch(each.source) and each.dtype in kept)
    )


def _tokenizer(path: Path, metadata: Json) -> TokenizerSource:
    prefix, fields = "tokenizer.chat_template", Fields(metadata, f"{path}: metadata key")
    templates = {
        key.removeprefix(prefix).lstrip(".") or "default": fields.text(key)
        for key, value in metadata.items()
        if key == prefix or (key.startswith(f"{prefix}.") and isinstance(value, str))
    }
    return TokenizerSource(
        gguf={key: value for key, value in metadata.items() if key.startswith("tokenizer.ggml.")},
        chat_templates=templates,
    )
