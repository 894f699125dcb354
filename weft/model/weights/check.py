"""Whether a checkpoint holds all of a model's weights and nothing else, from its tensor table. No torch, no layout."""

from __future__ import annotations

from collections.abc import Iterable

from weft.model.checkpoint.checkpoint import Checkpoint
from weft.model.checkpoint.formats import LOADABLE
from weft.model.checkpoint.tensors import TensorInfo, raise_all
from weft.parallel.arch.spec import ParamSpec


def check_checkpoint(checkpoint: Checkpoint, specs: Iterable[ParamSpec]) -> tuple[str, ...]:
    """CheckpointError listing every tensor that is missing, extra, misshapen or of a format no loader takes.

    Returns the tensors that are rightly unused, by their names in the file.
    """
    wanted = {spec.name: spec for spec in specs}
    problems = [problem for spec in wanted.values() if (problem := _fault(checkpoint, spec))]
    for name, info in checkpoint.tensors.items():
        if name not in wanted:
            problems.append(f"{_where(info)}: wanted: no such tensor in this model, got {_what(info)}")
    raise_all(checkpoint.path, problems)
    return checkpoint.ignored


def _fault(checkpoint: Checkpoint, spec: ParamSpec) -> str | None:
    info = checkpoint.tensors.get(spec.name)
    if info is None:
        return f"{checkpoint.path}: {spec.name}: wanted {list(spec.shape)}, got: missing"
    if info.shape != spec.shape:
        return f"{_where(info)}: wanted {list(spec.shape)}, got {list(info.shape)}"
    if info.dtype not in LOADABLE:
        return f"{_where(info)}: wanted one of {', '.join(LOADABLE)}, got {info.dtype}"
    if len(info.shape) == 1 and LOADABLE[info.dtype].block > 1:
        return f"{_where(info)}: wanted a plain format for a vector, got {info.dtype}"
    return None


def _where(info: TensorInfo) -> str:
    return f"{info.file}: {info.source}"


def _what(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"
