"""Chooses what an engine's options leave open, from the model, the layout and the kernels that its hosts have."""

from __future__ import annotations

from dataclasses import replace

from weft.base.errors import ConfigError
from weft.base.machine.devices import too_few, torch_without_devices
from weft.base.plural import counted, up_to
from weft.base.settings import EngineConfig, resolve_dtype
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.ranks import describe
from weft.runtime.launch_plan.block_size import block_size_of
from weft.runtime.launch_plan.kernel_needs import check_kernels
from weft.runtime.launch_plan.moe_backend import resolve_moe_backend, why_not_packed
from weft.runtime.launch_plan.step_limits import check_context, with_step_tokens


def resolved_engine(engine: EngineConfig, config: ModelConfig, layout: Layout, able: str | None) -> EngineConfig:
    """Refuses a context beyond the model's, a device that cannot hold the world, and kernels that are not there."""
    dtype = resolve_dtype(engine.dtype, config.dtype)
    check_context(engine.max_model_len, config.longest_position)
    _check_sharing(engine, layout)
    if engine.device == "cuda" and (version := torch_without_devices()) is not None:
        raise too_few(0, version, describe(layout, 0))
    unpacked = why_not_packed(engine.device, dtype)
    moe_backend = resolve_moe_backend(engine.moe_backend, dtype, config.num_experts, config.hidden_size, unpacked)
    block_size = block_size_of(engine, dtype, config, able or "")
    engine = replace(engine, dtype=dtype, moe_backend=moe_backend, block_size=block_size)
    engine = with_step_tokens(engine, layout)
    check_kernels(engine)
    return engine


def _check_sharing(engine: EngineConfig, layout: Layout) -> None:
    """ConfigError for ranks that are to share a device where there is none, or more of them than there are."""
    sharing, why, legal = engine.ranks_per_device, "", 1
    if sharing > 1 and engine.device == "cpu":
        why = "ranks share CUDA devices; give --device cuda, or leave it out"
    elif sharing > layout.world:
        legal = layout.world
        why = f"the layout has {counted(legal, 'rank')}; legal: {up_to(legal)}"
    if why:
        message = f"ranks_per_device {sharing}: {why}"
        raise ConfigError(message, field="ranks_per_device", value=sharing, legal=tuple(range(1, legal + 1)))
