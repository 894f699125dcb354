"""What might do better than what settings ask for, as a file's numbers and the CPU are, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weft.arch.spec import ParamSpec
from weft.checkpoint.checkpoint import Checkpoint
from weft.native import isa
from weft.settings import EngineConfig
from weft.weights.kept import BITS, BLOCKS, DTYPES, block_formats


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
    """Codes that are made of numbers which the file has in codes of its own."""
    if engine.quantization in BITS and formats:
        also = "" if engine.dtype in DTYPES["gguf"] else f" --dtype {DTYPES['gguf'][0]}"
        yield (
            f"hint: the file has numbers in {', '.join(formats)}, which {engine.quantization} rounds a second time;"
            f" --quantization gguf{also} keeps them as they are"
        )


def _rounded_faster(engine: EngineConfig, formats: list[str], variant: str | None) -> Iterator[str]:
    """Rows in full that meet blocks, where rounded ones would be multiplied faster."""
    if variant is None or engine.quantization != "gguf" or engine.activations != "auto":
        return
    if faster := [name for name in formats if isa.suits_rounded_rows(variant, BLOCKS[name])]:
        yield (
            f"hint: this CPU ({variant}) multiplies rows of 8 bits faster with the file's {', '.join(faster)};"
            " --activations int8 rounds rows to them, which is a little less exact"
        )


def _shorter_faster(engine: EngineConfig, variant: str | None) -> Iterator[str]:
    """Whole numbers where shorter ones are faster for few streams and slower for many, so that only the user can
    decide."""
    undecided = engine.compress_weights is None and engine.quantization == "none" and not engine.enforce_eager
    if not undecided or engine.dtype != "bfloat16" or engine.device != "cpu" or variant is None:
        return
    if isa.suits_bf12_of_few(variant):
        yield (
            "hint: with numbers in 12 bits, which keep their values (--compress-weights), a single stream was faster"
            f" with kernels such as this CPU's ({variant}), and 8 to 32 at once were slower; --no-compress-weights"
            " keeps them whole and leaves this hint out"
        )
