"""What an engine's `quantization` means for a checkpoint: which matrices are quantized. Refuses what cannot be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from weft.arch.quantization import Kept
from weft.arch.spec import ParamSpec
from weft.checkpoint.checkpoint import Checkpoint
from weft.checkpoint.formats import LOADABLE
from weft.errors import ConfigError
from weft.native import isa
from weft.settings import EngineConfig

BLOCKS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}
"""Formats whose blocks are kept as they are, and bits of a quantized value."""
DTYPES = {"int8": ("bfloat16", "float32"), "int4": ("bfloat16", "float32"), "gguf": ("bfloat16",)}
"""What each is computed in. Blocks stand for bf16 numbers; in fp32 they would not be the file's."""

BITS = {"int8": 8, "int4": 4}
"""Bits of the quantized values that matrices are rounded to."""


def kept_weights(
    engine: EngineConfig, checkpoint: Checkpoint | None, specs: Iterable[ParamSpec], variant: str | None = None
) -> Kept:
    """`engine` with its dtype named; on a CPU as its C++ parts keep matrices, `variant` of them (None: there are none).
    ConfigError for a dtype or device that has no kernel for codes, and for gguf without a file that has such blocks;
    for compressed numbers and bounds of logits where there are none."""
    asked = engine.quantization
    _check_switches(engine)
    if asked == "none" and engine.activations == "int8":
        raise ConfigError(
            "activations int8: only matrices kept in codes are multiplied with rows of 8 bits; give"
            " --quantization int8, int4 or gguf too, or --activations full",
            field="activations",
            value="int8",
            legal=("auto", "full"),
        )
    packed = engine.device == "cpu" and engine.dtype != "float16"
    kept = Kept(asked, packed=packed, prunes=variant is not None and isa.suits_argmax_pruning(variant))
    if asked == "none":
        return kept
    if engine.device != "cpu":
        raise _refused(engine, f"codes are multiplied on the CPU only, not on {engine.device}; legal: none")
    if engine.dtype not in DTYPES[asked]:
        legal = " or ".join(DTYPES[asked])
        raise _refused(engine, f"computed in {legal}, not in {engine.dtype}; give --dtype {DTYPES[asked][0]}")
    kept = replace(kept, rounds_rows=rounds_rows(engine, variant))
    if asked != "gguf":
        return replace(kept, experts=engine.moe_backend in ("auto", "packed"))
    blocks = _blocks(checkpoint, specs) if checkpoint is not None else {}
    if not blocks:
        raise _refused(engine, f"the model has no tensor in {', '.join(BLOCKS)}; legal: none, int8, int4")
    return replace(kept, blocks=blocks)


def rounds_rows(engine: EngineConfig, variant: str | None) -> bool:
    """Whether activations are int8 where weights are quantized: as asked, or where `variant` is faster with them. Rows
    that other quantized weights are multiplied with, such as lm_head, are then rounded too.

    The default is int8 activations only for matrices that are quantized for speed: blocks are a file's own, and fp32 is
    chosen for exactness.
    """
    if engine.activations != "auto":
        return engine.activations == "int8"
    bits = BITS.get(engine.quantization)
    if bits is None or variant is None or engine.dtype != "bfloat16" or engine.device != "cpu":
        return False
    return isa.suits_rounded_rows(variant, bits)


def _check_switches(engine: EngineConfig) -> None:
    """Of bounds of logits only what is seen before there is a program; `weft.program.argmax_pruning` sees the rest."""
    codes = f"with --quantization {engine.quantization} matrices are codes already; give none or gguf"
    eager = "a step runs eagerly; leave --enforce-eager out"
    coded = engine.quantization in BITS
    _check_switch(engine, "compress_weights", "numbers of bfloat16 take 12 bits", codes if coded else "")
    _check_switch(engine, "prune_argmax", "rows of bfloat16 have bounds", eager if engine.enforce_eager else "")


def _check_switch(engine: EngineConfig, field: str, what: str, why_not: str) -> None:
    if not getattr(engine, field):
        return
    if engine.dtype != "bfloat16":
        why_not = f"only {what}, not those of {engine.dtype}; give --dtype bfloat16"
    elif engine.device != "cpu":
        why_not = f"{what} on the CPU only, not on {engine.device}; give --device cpu"
    if why_not:
        message = f"{field}: {why_not}, or leave --{field.replace('_', '-')} out"
        raise ConfigError(message, field=field, value=True)


def _blocks(checkpoint: Checkpoint, specs: Iterable[ParamSpec]) -> dict[str, tuple[int, int]]:
    found = block_formats(checkpoint, specs)
    return {name: (LOADABLE[kind].block, LOADABLE[kind].nbytes) for name, kind in found.items()}


def block_formats(checkpoint: Checkpoint, specs: Iterable[ParamSpec]) -> dict[str, str]:
    """Of the tensors whose runtime parameter has one format of `BLOCKS` in all its parts."""
    parts: dict[str, list[str]] = defaultdict(list)
    for spec in specs:
        if spec.name in checkpoint.tensors:
            parts[spec.target].append(spec.name)
    found: dict[str, str] = {}
    for names in parts.values():
        formats = {checkpoint.tensors[name].dtype for name in names}
        if len(formats) == 1 and formats <= set(BLOCKS):
            found |= dict.fromkeys(names, formats.pop())
    return found


def _refused(engine: EngineConfig, why: str) -> ConfigError:
    return ConfigError(f"quantization {engine.quantization}: {why}", field="quantization", value=engine.quantization)
