"""Memory decisions that `weft serve` makes on a CPU: bf16 in 12 bits. As asked, else the machine's default,
which notes report. `Machine` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from weft.base.settings import EngineConfig
from weft.tools.explain.notes import LayoutNote


@dataclass(frozen=True, slots=True)
class Machine:
    """The defaults of a CPU's kernels; `name`: of their variant."""

    name: str
    compresses: bool


@dataclass(frozen=True, slots=True)
class KernelChoices:
    """`compressed`: bf16 matrices take 12 bits a number. `programs`: steps run in C++, so that ranks may
    exchange only their largest logits. `device`: of the ranks."""

    compressed: bool = False
    programs: bool = True
    device: str = "cpu"
    notes: tuple[LayoutNote, ...] = ()


def choices_of(engine: EngineConfig, machine: Machine) -> KernelChoices:
    """The choices for `engine`, whose dtype is named and whose switches `weight_storage` took."""
    bf16 = engine.dtype == "bfloat16" and engine.device == "cpu"
    compresses = bf16 and engine.quantization in ("none", "gguf")
    compressed = compresses and _chosen(engine.compress_weights, machine.compresses)
    notes = _numbers(engine.compress_weights, compressed, machine, engine.quantization) if compresses else ()
    programs = engine.device == "cpu" and engine.dtype in ("bfloat16", "float32") and not engine.enforce_eager
    return KernelChoices(compressed, programs, engine.device, tuple(notes))


def for_checkpoint(choices: KernelChoices, method: str) -> KernelChoices:
    """`choices` for the matrices of a checkpoint that is quantized by `method`, if any: none of them is compressed."""
    if not method:
        return choices
    notes = tuple(note for note in choices.notes if note.code not in ("compressed", "not_compressed"))
    return replace(choices, compressed=False, notes=notes)


def _chosen(asked: bool | None, default: bool) -> bool:
    return default if asked is None else asked


def _numbers(asked: bool | None, compressed: bool, machine: Machine, quantization: str) -> Iterator[LayoutNote]:
    which = "bf16 weights" if quantization == "none" else "weights that the file does not quantize"
    if compressed:
        whose = "as asked" if asked else f"the default of this CPU ({machine.name}); --no-compress-weights counts 16"
        text = f"{which} are counted with 12 bits each, routed experts with 16"
        whole = "matrices with a wide range of exponents keep 16 bits, and memory is planned for 16 everywhere"
        yield LayoutNote("info", "compressed", f"{text}, {whose}; {whole}")
    elif asked is None:
        text = f"{which} are counted with 16 bits each, the default of this CPU ({machine.name})"
        yield LayoutNote("info", "not_compressed", f"{text}; --compress-weights counts 12")
