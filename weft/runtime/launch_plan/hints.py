"""What might do better than what settings ask for, as a file's numbers and the CPU are, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weft.base.settings import EngineConfig
from weft.base.weight_formats import Chosen, chosen_by, kept_blocks
from weft.compute.native import isa
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.weights.storage import block_formats, dtypes_of
from weft.parallel.arch.spec import ParamSpec


def hints(
    engine: EngineConfig, checkpoint: Checkpoint, specs: Iterable[ParamSpec], variant: str | None
) -> Iterator[str]:
    """`engine` with its dtype named; `variant`: of the kernels that multiply, None where there are none."""
    dense = [spec for spec in specs if spec.expert is None]  # no block of routed experts is kept
    if engine.quantization != "none":
        formats = sorted(set(block_formats(checkpoint, dense).values()))
        yield from _twice_rounded(engine, formats)
        yield from _rounded_faster(engine, formats, variant)
    yield from _shorter_faster(engine, variant)


def _twice_rounded(engine: EngineConfig, formats: list[str]) -> Iterator[str]:
    """Values that are quantized in the file, and by --quantization once more."""
    if engine.quantization in chosen_by(Chosen.OPTION) and formats:
        dtypes = dtypes_of("gguf")
        also = "" if engine.dtype in dtypes else f" --dtype {dtypes[0]}"
        yield (
            f"hint: the file is quantized in {', '.join(formats)}; {engine.quantization} quantizes it a second time;"
            f" --quantization gguf{also} keeps the file's values"
        )


def _rounded_faster(engine: EngineConfig, formats: list[str], variant: str | None) -> Iterator[str]:
    """Full-precision activations of a file's blocks, where int8 ones would be faster."""
    if variant is None or engine.quantization != "gguf" or engine.activations != "auto":
        return
    if faster := [name for name in formats if isa.suits_int8_activations(variant, kept_blocks()[name].bits)]:
        yield (
            f"hint: this CPU ({variant}) is faster with int8 activations for the file's {', '.join(faster)}:"
            " --activations int8, a little less exact"
        )


def _shorter_faster(engine: EngineConfig, variant: str | None) -> Iterator[str]:
    """Whole numbers where shorter ones are faster for few streams and slower for many, so that only the user can
    decide."""
    undecided = engine.compress_weights is None and engine.quantization == "none" and not engine.enforce_eager
    if not undecided or engine.dtype != "bfloat16" or engine.device != "cpu" or variant is None:
        return
    if isa.suits_bf16_12bit_of_few(variant):
        yield (
            "hint: --compress-weights stores bf16 in 12 bits without loss: on CPUs like this one"
            f" ({variant}) one stream was faster, 8 to 32 streams slower; --no-compress-weights removes this hint"
        )
