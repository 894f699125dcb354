"""Weight formats for commands without ranks: quantization as given, and what this machine's CPU would choose."""

from __future__ import annotations

import argparse
from dataclasses import replace

from weft.base.options import check_range
from weft.base.settings import EngineConfig
from weft.cli.args.model_config import model_checkpoint
from weft.compute.native import isa
from weft.compute.native.libraries import disabled
from weft.model.checkpoint import Checkpoint
from weft.model.weights.storage import weight_storage
from weft.model.weights.stored import refused_formats, stored_line
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.params import param_specs
from weft.parallel.arch.quantization import WeightStorage
from weft.tools.explain.choices import KernelChoices, Machine, choices_of, for_checkpoint
from weft.tools.explain.notes import LayoutNote

COUNTED = (
    "dtype",
    "quantization",
    "activations",
    "compress_weights",
    "max_num_batched_tokens",
    "max_num_seqs",
    "enforce_eager",
    "device",
)
"""Engine options that change memory or traffic."""

MOST_ROWS = 1 << 20
"""Most rows of a batch: each is a number in a list."""


def check_batch(rows: int) -> None:
    """ConfigError: no step has so many rows."""
    check_range("--batch", rows, 1, MOST_ROWS)


def storage_from(engine: EngineConfig, config: ModelConfig, file: Checkpoint | None) -> WeightStorage:
    """From `engine`, with its dtype resolved, and the `file` that MODEL is. ConfigError: not possible."""
    return weight_storage(engine, file, param_specs(config), _variant())


def file_from(args: argparse.Namespace) -> Checkpoint | None:
    """The tensor table of MODEL where it is one file."""
    return None if args.without_checkpoint else model_checkpoint(args.model, args.revision)


def choices_from(
    engine: EngineConfig, config: ModelConfig, file: Checkpoint | None, storage: WeightStorage
) -> KernelChoices:
    """From `engine`, with its dtype resolved; this machine's defaults where it does not say. Notes say what becomes of
    what is quantized in `file`."""
    choices = for_checkpoint(choices_of(engine, _machine()), config.quantization)
    if file is None:
        return choices
    notes = [LayoutNote("warning", "not_served", line) for line in refused_formats(file)]
    line = stored_line(file, config, engine, storage)
    if line is not None and not notes:
        notes.append(LayoutNote("info", "stored", line))
    return replace(choices, notes=(*notes, *choices.notes))


def _variant() -> str | None:
    """The kernel variant of this CPU; None where the kernels are switched off."""
    return None if disabled() else isa.chosen()


def _machine() -> Machine:
    variant = _variant()
    if variant is None:
        return Machine("without C++ parts", compresses=False)
    return Machine(variant, isa.suits_bf16_12bit(variant))
