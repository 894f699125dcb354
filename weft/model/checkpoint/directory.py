"""A model directory as a Checkpoint: config.json, safetensors files, tokenizer files."""

from __future__ import annotations

from pathlib import Path

from weft.base.fields import Fields
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.forms.forms import as_named
from weft.model.checkpoint.generation import config_line, generation_notes, of_config
from weft.model.checkpoint.safetensors.text_files import TEXT, read_json, read_text_files
from weft.model.checkpoint.safetensors.weight_files import INDEX, SINGLE, pickle_among, read_weight_files
from weft.model.checkpoint.tensors import raise_all
from weft.parallel.arch.families.registry import config_notes, family_of, parse_config
from weft.parallel.arch.reading.wrappers import text_part

__all__ = ["CONFIG", "INDEX", "SINGLE", "TEXT", "open_directory", "pickle_among"]

GENERATION, ADAPTER = "generation_config.json", "adapter_config.json"
CONFIG = ("config.json", GENERATION)


def open_directory(path: Path) -> Checkpoint:
    """Checkpoint of the directory `path`; CheckpointError with every missing or faulty file, FieldError for a field of
    the config that cannot be."""
    problems: list[str] = []
    notes: list[str] = []
    file = path / "config.json"
    raw = read_json(file, problems, required=True)
    own = path / GENERATION
    generation = read_json(own, problems)
    tokenizer = read_text_files(path, raw, problems, notes)
    weights = read_weight_files(path)
    raise_all(str(path), problems + weights.problems)
    notes += config_notes(raw, str(file))
    fields = text_part(Fields(raw, str(file)))
    family = family_of(fields)
    model = parse_config(raw, str(file))
    named = as_named(path, family.completed(fields.values), model, weights.tensors, wrapped=fields.values != raw)
    notes += [*weights.notes, *named.notes]
    if not own.exists():
        own, generation = file, of_config({**fields.values, **raw})
        notes += config_line(Fields(generation, str(own)))
    notes += generation_notes(Fields(named.config, str(file)), Fields(generation, str(own)))
    if (path / ADAPTER).exists():
        notes.append(f"{path / ADAPTER}: the adapter is not applied; merge it into the model to serve both")
    return Checkpoint(
        str(path),
        "safetensors",
        named.config,
        named.tensors,
        generation,
        tokenizer,
        named.ignored,
        tuple(notes),
        weights.states,
        own.name,
    )
