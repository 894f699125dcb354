"""What is asked of expert slots: where experts begin, how they are balanced, what is recorded. No torch, no process.

Every refusal that options, layout and model allow is made here, before anything is started.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.plural import counted, size, up_to
from weft.base.settings import EngineConfig
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.slots import SlotMap, most_moved, staged_slots
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.balancing.eplb_process import EplbProcess
from weft.parallel.experts.balancing.expert_balancing import BalanceSettings, ExpertBalancing
from weft.parallel.experts.placement.initial import placement_of_file
from weft.parallel.experts.placement.placement import ExpertPlacement, even_placement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.parallel.experts.statistics.recorder import LoadRecorder
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import ExpertsLayout, Layout

_BALANCING = ("eplb_window", "eplb_max_moved", "eplb_bytes_per_step", "eplb_threshold")


@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """`placement`: what the ranks load, one row for each of `settings.layers`. `staged`: slots of a layer that a rank
    can receive before the layer switches."""

    settings: BalanceSettings
    placement: ExpertPlacement
    num_layers: int
    source: str | None = None
    stats: str | None = None
    staged: int = 0

    @property
    def slot_maps(self) -> tuple[tuple[int, SlotMap], ...]:
        """The expert of every slot, by layer."""
        rows = zip(self.settings.layers, self.placement.phy2log.tolist(), strict=True)
        return tuple((layer, tuple(row)) for layer, row in rows)

    def of_replica(self, replica: int) -> ExpertPlan:
        """The same, with statistics in a file of the replica's own: stats.json, stats-replica1.json ..."""
        if self.stats is None or replica == 0:
            return self
        path = Path(self.stats)
        return replace(self, stats=str(path.with_name(f"{path.stem}-replica{replica}{path.suffix}")))

    def lines(self) -> list[str]:
        """For people."""
        placement, settings = self.placement, self.settings
        begins = "dealt in order" if self.source is None else f"as {self.source} says"
        lines = [f"experts: {placement.experts} in {placement.slots} slots over ep {placement.ranks}, {begins}"]
        if settings.balancer is not None:
            window = f", the last {settings.window} of them count" if settings.window < settings.interval else ""
            lines.append(
                f"balancing of experts: {settings.balancer.resolved}, every {settings.interval} steps{window}; moves up"
                f" to {settings.most_moved} slots of a layer, {size(settings.slot_bytes)} each in"
                f" {counted(settings.pace.parts, 'part')}, {counted(settings.pace.parts_per_step, 'part')}"
                " a rank and step"
            )
        if self.stats is not None:
            lines.append(f"expert loads are written to {self.stats} every {settings.interval} steps and at the end")
        return lines

    def balancing(self, model: str) -> ExpertBalancing:
        """The engine's part; one for all sets of ranks. ConfigError: statistics cannot be written. `model`: its
        name."""
        planner = EplbProcess(self.settings.balancer) if self.settings.balancer is not None else None
        recorder = None
        if self.stats is not None:
            recorder = LoadRecorder(
                Path(self.stats), model, self.num_layers, self.settings.layers, self.placement.experts
            )
        return ExpertBalancing(self.settings, self.placement, planner, recorder)


def plan_experts(config: ModelConfig, layout: Layout, engine: EngineConfig, itemsize: int) -> ExpertPlan | None:
    """None where nothing was asked for. ConfigError: what cannot be, with the legal values."""
    experts = layout.experts
    if experts is None or config.moe is None:
        _refuse(
            engine, ("expert_placement", "expert_stats", *_BALANCING), "the model has no routed experts; leave it out"
        )
        return None
    balanced = experts.balance.policy != "none"
    if not balanced:
        _refuse(engine, _BALANCING, "experts are not balanced; give --eplb too, or leave it out")
        if engine.expert_placement is None and engine.expert_stats is None:
            return None
    if balanced and experts.ep == 1:
        raise _nothing_to_balance(config, layout, experts)
    shape = _shape(config, layout, experts)
    layers = tuple(layer for layer in range(config.num_layers) if config.has_experts(layer))
    placement = even_placement(len(layers), shape)
    if engine.expert_placement is not None:
        placement = placement_of_file(Path(engine.expert_placement), shape, config.num_layers, layers)
    settings = BalanceSettings(layers, experts.balance.interval, experts.balance.interval)
    if balanced:
        settings = _settings(config, layout, engine, shape, layers, itemsize)
    return ExpertPlan(
        settings=settings,
        placement=placement,
        num_layers=config.num_layers,
        source=engine.expert_placement,
        stats=engine.expert_stats,
        staged=staged_slots(experts, settings.most_moved),
    )


def _settings(
    config: ModelConfig,
    layout: Layout,
    engine: EngineConfig,
    shape: SlotShape,
    layers: tuple[int, ...],
    itemsize: int,
) -> BalanceSettings:
    experts = layout.experts
    assert experts is not None
    interval, window = experts.balance.interval, engine.eplb_window or experts.balance.interval
    if window > interval:
        raise ConfigError(
            f"eplb_window {window}: one rebalancing follows the other after {counted(interval, 'step')};"
            f" legal: {up_to(interval)}",
            field="eplb_window",
            value=window,
            legal=(1, interval),
        )
    most = _most_moved(engine, shape)
    policy = experts.balance.policy
    if policy == "auto":
        policy = "hierarchical" if shape.hierarchical else "global"
    shards = Shards(config, layout)
    slot_bytes = max(shards.slot_bytes(rank, itemsize) for rank in range(layout.stage_size))
    return BalanceSettings(
        layers=layers,
        interval=interval,
        window=window,
        threshold=engine.eplb_threshold,
        balancer=LoadBalancer(shape, policy, most / shape.slots),
        most_moved=most,
        pace=TransferRate.of_bytes(slot_bytes, engine.eplb_bytes_per_step),
        slot_bytes=slot_bytes,
    )


def _nothing_to_balance(config: ModelConfig, layout: Layout, experts: ExpertsLayout) -> ConfigError:
    policy, legal = (
        experts.balance.policy,
        tuple(ep for ep in divisors(layout.stage_size) if 1 < ep <= config.num_experts),
    )
    return ConfigError(
        f"experts.balance.policy {policy}: ep is 1, every rank has all experts and there is nothing to balance; legal"
        f" ep: {', '.join(map(str, legal)) or 'none in a stage of 1 rank'}, or leave --eplb out",
        field="experts.balance.policy",
        value=policy,
        legal=legal,
    )


def _most_moved(engine: EngineConfig, shape: SlotShape) -> int:
    most = most_moved(shape.slots) if engine.eplb_max_moved is None else engine.eplb_max_moved
    if most > shape.slots:
        raise ConfigError(
            f"eplb_max_moved {most}: a layer has {counted(shape.slots, 'slot')}; legal: {up_to(shape.slots)}",
            field="eplb_max_moved",
            value=most,
            legal=(1, shape.slots),
        )
    return most


def _shape(config: ModelConfig, layout: Layout, experts: ExpertsLayout) -> SlotShape:
    """The slots of one block. Groups are the router's where balancing keeps them inside nodes."""
    assert config.moe is not None
    nodes = max(1, experts.tp * experts.ep // layout.ranks_per_node)
    groups, policy = config.moe.groups, experts.balance.policy
    keeps = policy == "hierarchical" or policy == "auto" and nodes > 1 and groups > 1 and groups % nodes == 0
    return SlotShape(config.num_experts, experts.slots, experts.ep, nodes if keeps else 1, groups if keeps else 1)


def _refuse(engine: EngineConfig, names: tuple[str, ...], why: str) -> None:
    defaults = {field.name: field.default for field in fields(EngineConfig)}
    for name in names:
        value = getattr(engine, name)
        if value != defaults[name]:
            raise ConfigError(f"{name} {value}: {why}", field=name, value=value)
