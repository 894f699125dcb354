"""Memory decisions that `weft serve` makes on a CPU: bf16 in 12 bits, bounds of logits. As asked, else the machine's
default, which notes report. `Machine` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from weft.explain.notes import LayoutNote
from weft.layout.boundaries import why_not_largest
from weft.layout.layout import Layout
from weft.settings import EngineConfig


@dataclass(frozen=True, slots=True)
class Machine:
    """The defaults of a CPU's kernels; `name`: of their variant."""

    name: str
    compresses: bool
    prunes: bool


@dataclass(frozen=True, slots=True)
class KernelChoices:
    """`compressed`: bf16 matrices take 12 bits a number. `pruned_rows`: the most rows whose logits are bounded; 0:
    none. `programs`: steps run in C++, so that ranks may exchange only their largest logits. `device`: of the ranks."""

    compressed: bool = False
    pruned_rows: int = 0
    programs: bool = True
    device: str = "cpu"
    notes: tuple[LayoutNote, ...] = ()


def choices_of(
    engine: EngineConfig, layout: Layout, machine: Machine, rows: int, int8_activations: bool = False
) -> KernelChoices:
    """Of `engine`, its dtype named, whose switches `weight_storage` took. `rows`: that logits may be bounded of;
    `int8_activations`: as `WeightStorage` has it."""
    bf16 = engine.dtype == "bfloat16" and engine.device == "cpu"
    compresses = bf16 and engine.quantization in ("none", "gguf")
    compressed = compresses and _chosen(engine.compress_weights, machine.compresses)
    prunes = bf16 and not engine.enforce_eager
    wanted = prunes and _chosen(engine.prune_argmax, machine.prunes)
    why_not = why_not_largest(layout)
    bounded = wanted and not why_not
    notes = [
        *(_numbers(engine.compress_weights, compressed, machine, engine.quantization) if compresses else ()),
        *(_bounds(engine.prune_argmax, wanted, why_not, machine) if prunes else ()),
        *_rows(engine, int8_activations, bounded, machine),
    ]
    programs = engine.device == "cpu" and engine.dtype in ("bfloat16", "float32") and not engine.enforce_eager
    return KernelChoices(compressed, rows if bounded else 0, programs, engine.device, tuple(notes))


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


def _bounds(asked: bool | None, wanted: bool, why_not: str, machine: Machine) -> Iterator[LayoutNote]:
    if wanted and why_not and asked:
        text = f"prune_argmax: {why_not}; leave --prune-argmax out"
        yield LayoutNote("warning", "not_served", text)
    elif wanted and why_not:
        yield LayoutNote("info", "no_bounds", f"prune_argmax is off: {why_not}")
    elif wanted:
        whose = "as asked" if asked else f"the default of this CPU ({machine.name}); --no-prune-argmax leaves it out"
        yield LayoutNote("info", "bounds", f"the small copy of lm_head for prune_argmax is counted, {whose}")
    elif asked is None:
        text = (
            f"prune_argmax is off, the default of this CPU ({machine.name}); --prune-argmax counts its copy of lm_head"
        )
        yield LayoutNote("info", "no_bounds", text)


def _rows(engine: EngineConfig, int8_activations: bool, bounded: bool, machine: Machine) -> Iterator[LayoutNote]:
    how = f"activations are {'int8' if int8_activations else 'not quantized'}"
    only = "that changes only the copy of lm_head for prune_argmax"
    if engine.activations != "auto":
        yield LayoutNote("info", "activations", f"activations {engine.activations}: {how}; {only}")
    elif bounded and engine.quantization != "none":
        text = (
            f"with quantized weights {how}, the default of this CPU ({machine.name}); {only}; --activations changes it"
        )
        yield LayoutNote("info", "activations", text)
