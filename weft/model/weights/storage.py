"""What an engine's `quantization` means for a checkpoint: which matrices are quantized. Refuses what cannot be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from weft.base.errors import ConfigError
from weft.base.settings import EngineConfig
from weft.base.weight_formats import Chosen, chosen_by, kept_blocks
from weft.compute.native import isa
from weft.model.checkpoint.checkpoint import Checkpoint
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.spec import ParamSpec


def weight_storage(
    engine: EngineConfig, checkpoint: Checkpoint | None, specs: Iterable[ParamSpec], variant: str | None = None
) -> WeightStorage:
    """`engine` with its dtype named; on a CPU as its C++ parts keep matrices, `variant` of them (None: there are none).
    ConfigError for a dtype or device that has no kernel for quantized weights, and for gguf without a file that has
    such blocks; for compressed weights where there are none."""
    asked = engine.quantization
    _check_switches(engine)
    if asked == "none" and engine.activations == "int8":
        raise ConfigError(
            f"activations int8: it needs quantized weights; give --quantization {', '.join(chosen_by(Chosen.OPTION))}"
            " or gguf too, or --activations full",
            field="activations",
            value="int8",
            legal=("auto", "full"),
        )
    packed = engine.device == "cpu" and engine.dtype != "float16"
    pads = packed and variant is not None
    storage = WeightStorage(asked, packed=packed, pads=pads)
    if asked == "none":
        return storage
    if engine.device != "cpu":
        raise _refused(engine, f"quantized weights run on the CPU only, not on {engine.device}; legal: none")
    dtypes = dtypes_of(asked)
    if engine.dtype not in dtypes:
        legal = " or ".join(dtypes)
        raise _refused(engine, f"it computes in {legal}, not in {engine.dtype}; give --dtype {dtypes[0]}")
    storage = replace(storage, int8_activations=uses_int8_activations(engine, variant))
    if asked != "gguf":
        return replace(storage, experts=engine.moe_backend in ("auto", "packed"))
    blocks = block_formats(checkpoint, specs) if checkpoint is not None else {}
    if not blocks:
        legal = ", ".join(("none", *chosen_by(Chosen.OPTION)))
        raise _refused(engine, f"the model has no tensor in {', '.join(kept_blocks())}; legal: {legal}")
    return replace(storage, blocks=blocks)


def dtypes_of(quantization: str) -> tuple[str, ...]:
    """Dtypes of activations that matrices of --quantization `quantization`, not none, are multiplied with."""
    rows = kept_blocks() if quantization == "gguf" else chosen_by(Chosen.OPTION)
    return next(row.dtypes for name, row in rows.items() if quantization in (name, "gguf"))


def uses_int8_activations(engine: EngineConfig, variant: str | None) -> bool:
    """Whether activations are int8 where weights are quantized: as asked, or where `variant` is faster with them.
    Activations of all quantized weights are then int8, those of lm_head too.

    The default is int8 activations only for matrices that are quantized for speed: blocks are a file's own, and fp32 is
    chosen for exactness.
    """
    if engine.activations != "auto":
        return engine.activations == "int8"
    row = chosen_by(Chosen.OPTION).get(engine.quantization)
    if row is None or variant is None or engine.dtype != "bfloat16" or engine.device != "cpu":
        return False
    return isa.suits_int8_activations(variant, row.bits)


def _check_switches(engine: EngineConfig) -> None:
    quantized = f"with --quantization {engine.quantization} weights are quantized already; give none or gguf"
    rounds = engine.quantization in chosen_by(Chosen.OPTION)
    _check_switch(engine, "compress_weights", quantized if rounds else "")


def _check_switch(engine: EngineConfig, field: str, why_not: str) -> None:
    if not getattr(engine, field):
        return
    if engine.dtype != "bfloat16":
        why_not = f"it needs bfloat16, not {engine.dtype}; give --dtype bfloat16"
    elif engine.device != "cpu":
        why_not = f"it runs on the CPU only, not on {engine.device}; give --device cpu"
    if why_not:
        message = f"{field}: {why_not}, or leave --{field.replace('_', '-')} out"
        raise ConfigError(message, field=field, value=True)


def block_formats(checkpoint: Checkpoint, specs: Iterable[ParamSpec]) -> dict[str, str]:
    """Formats of the tensors whose runtime parameter has one format of `kept_blocks` in all its parts, by name."""
    parts: dict[str, list[str]] = defaultdict(list)
    for spec in specs:
        if spec.name in checkpoint.tensors:
            parts[spec.target].append(spec.name)
    found: dict[str, str] = {}
    for names in parts.values():
        formats = {checkpoint.tensors[name].dtype for name in names}
        if len(formats) == 1 and formats <= set(kept_blocks()):
            found |= dict.fromkeys(names, formats.pop())
    return found


def _refused(engine: EngineConfig, why: str) -> ConfigError:
    return ConfigError(f"quantization {engine.quantization}: {why}", field="quantization", value=engine.quantization)
