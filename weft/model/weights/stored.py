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
    formats = sorted({info.dtype for info in checkpoint.tensors.values() if info.dtype in chosen_by(Chosen.FILE)})
    if not formats:
        return None
    kept = sorted({*storage.blocks.values()})
    unpacked = [name for name in formats if name not in kept]
    rounded = engine.quantization in chosen_by(Chosen.OPTION)
    become = f"rounded again to {engine.quantization}" if rounded else f"unpacked to {engine.dtype}"
    said = [f"{', '.join(kept)} kept as in the file"] * bool(kept) + [f"{', '.join(unpacked)} {become}"] * bool(
        unpacked
    )
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
    one = resolve({}, num_experts=config.num_experts)
    return sum(Shards(config, one, storage=storage).bytes(0, DTYPE_BYTES[engine.dtype]).values())
