"""What a start says of a checkpoint's quantized weights: read as what, kept as what, in how much memory."""

from __future__ import annotations

from collections.abc import Iterator

from weft.base.plural import counted, size
from weft.base.settings import DTYPE_BYTES, EngineConfig
from weft.base.weight_formats import FORMATS, Chosen, chosen_by
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.formats import LOADABLE
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.resolve import resolve

SMALLEST = "int4"
"""The value of --quantization that takes the least memory."""


def stored_line(
    checkpoint: Checkpoint, config: ModelConfig, engine: EngineConfig, storage: WeightStorage
) -> str | None:
    """For a person; None where no weight is quantized in the files. `engine`: with its dtype named. Sizes are those of
    the whole model on one rank."""
    rounded = engine.quantization in chosen_by(Chosen.OPTION)
    narrow = f"rounded again to {engine.quantization}" if rounded else "kept as in the file"
    shards = _on_one_rank(config, storage)
    formats: dict[str, set[str]] = {narrow: set(), f"unpacked to {engine.dtype}": set()}
    for spec in shards.counted_specs:
        info, itemsize = checkpoint.tensors.get(spec.name), DTYPE_BYTES[engine.dtype]
        if info is not None and info.dtype in chosen_by(Chosen.FILE) and not shards.is_view(spec):
            kept = shards.bytes_of(spec, 0, itemsize) < shards.elements_of(spec, 0) * itemsize
            formats[narrow if kept else f"unpacked to {engine.dtype}"].add(info.dtype)
    said = [f"{', '.join(sorted(names))} {what}" for what, names in formats.items() if names]
    if not said:
        return None
    held, least = (_bytes(config, engine, each) for each in (storage, WeightStorage(SMALLEST)))
    more = held - checkpoint.nbytes
    line = f"weights: {'; '.join(said)}: {size(checkpoint.nbytes)} in the file, {size(held)} in memory"
    line += f", {size(abs(more))} {'more' if more > 0 else 'less'}"
    small = not rounded and engine.dtype in FORMATS[SMALLEST].dtypes and engine.device == "cpu"
    return f"{line}; --quantization {SMALLEST} would take {size(least)}" if small and least < held else line


def refused_formats(checkpoint: Checkpoint) -> Iterator[str]:
    """A line for each format of the file that no loader takes."""
    refused: dict[str, list[TensorInfo]] = {}
    for info in checkpoint.tensors.values():
        if info.dtype not in LOADABLE:
            refused.setdefault(info.dtype, []).append(info)
    for name, tensors in refused.items():
        count = counted(len(tensors), "tensor")
        yield f"{tensors[0].file}: {count} in {name}, {tensors[0].source} the first; legal: {', '.join(LOADABLE)}"


def _bytes(config: ModelConfig, engine: EngineConfig, storage: WeightStorage) -> int:
    return sum(_on_one_rank(config, storage).bytes(0, DTYPE_BYTES[engine.dtype]).values())


def _on_one_rank(config: ModelConfig, storage: WeightStorage) -> Shards:
    return Shards(config, resolve({}, num_experts=config.num_experts), storage=storage)
