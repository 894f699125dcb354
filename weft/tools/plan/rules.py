"""SearchRules: what a search looks at. Pins and limits of a person, and what keeps a search short, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from weft.base.errors import ConfigError
from weft.base.options import nearest
from weft.parallel.layout.counts import divisors
from weft.parallel.layout.layout import layout_settings
from weft.tools.plan.clusters import Cluster
from weft.tools.plan.parts import Shape, Size

EXHAUSTIVE = 8
"""Devices up to which every layout is looked at."""
MOST_STAGE, MOST_TP, WIDER = 512, 16, 4
"""Above: ranks of a stage, ranks of a module that is not experts, and how many times the least stage that holds the
weights is still looked at."""
LONG_CONTEXT = 16384
"""Tokens from which on ranks that share a request's positions are looked at."""
PINNABLE = ("attention.tp", "attention.dp", "attention.cp", "attention.kv_split", "o_proj.tp", "dense.tp",
            "experts.tp", "experts.ep", "shared_experts.tp", "embedding.tp", "lm_head.tp", "pipeline.stages",
            "replicas")  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchRules:
    """`pins` and `most`: sizes that are given, and that may not be passed. `least_ranks`: of a stage times stages, that
    hold the weights. `context`: of a request."""

    devices: int
    pins: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)
    least_ranks: int = 1
    context: int = 0

    @property
    def exhaustive(self) -> bool:
        """Whether every layout is looked at."""
        return self.devices <= EXHAUSTIVE

    @property
    def most_tp(self) -> int:
        """Of a module's size above that."""
        return MOST_TP

    def words(self) -> Iterator[str]:
        """What is left out beside pins, for people."""
        if not self.exhaustive:
            yield (
                f"above {EXHAUSTIVE} devices: stages of at most {MOST_STAGE} ranks, and of {WIDER} sizes from the least"
                f" that holds the weights; modules of at most {MOST_TP} ranks or attention's; experts of tp 1"
            )
        if not self._shares_positions():
            yield f"cp and kv_split above 1: looked at from {LONG_CONTEXT:,} tokens a request on, or where pinned"

    def allows(self, module: str, size: Size) -> bool:
        """Whether a module may have this size."""
        if isinstance(size, tuple):
            fits = self._allows("experts.tp", size[0]) and self._allows("experts.ep", size[1])
            return fits and (self.exhaustive or size[0] == 1 or "experts.tp" in self.pins)
        return self._allows(f"{module}.tp", size)

    def why_not(self, shape: Shape) -> str:
        """The rule that leaves a shape out; "pinned": a person's; empty: none."""
        if not all(self._allows(name, value) for name, value in shape.given().items() if isinstance(value, int)):
            return "pinned"
        if (shape.cp > 1 or shape.kv_split > 1) and not self._shares_positions():
            return "cp and kv_split above 1, for a context that is short"
        if not self.exhaustive and shape.tp > MOST_TP and "attention.tp" not in self.pins:
            return f"attention tp above {MOST_TP}"
        return ""

    def stage_sizes(self, cluster: Cluster) -> Iterator[int]:
        """Ranks of a stage."""
        if self.exhaustive:
            yield from range(1, cluster.devices + 1)
            return
        sizes = [size for size in divisors(cluster.devices) if size <= MOST_STAGE]
        enough = [size for size in sizes if size >= min(self.least_ranks, sizes[-1])]
        yield from enough[:WIDER]

    def worlds(self, cluster: Cluster, ranks: int, layers: int) -> Iterator[tuple[int, int]]:
        """Stages and replicas of stages of so many ranks."""
        for stages in range(1, min(layers, cluster.devices // ranks) + 1):
            if not self.exhaustive and stages not in (1, 2, 4, 8):
                continue
            if not self._allows("pipeline.stages", stages):
                continue
            most = cluster.devices // (ranks * stages)
            for replicas in range(1, most + 1) if self.exhaustive else (most,):
                if self._allows("replicas", replicas):
                    yield stages, replicas

    def _shares_positions(self) -> bool:
        pinned = {"attention.cp", "attention.kv_split"} & self.pins.keys()
        return bool(pinned) or self.context >= LONG_CONTEXT

    def _allows(self, name: str, value: int) -> bool:
        return self.pins.get(name, value) == value and value <= self.most.get(name, value)


def read_sizes(flag: str, words: list[str]) -> dict[str, int]:
    """NAME=N of --pin and --max. ConfigError: no such field, no such number, or more than there are devices."""
    found: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in PINNABLE:
            known = [setting.name for setting in layout_settings()]
            legal = ", ".join(PINNABLE)
            raise ConfigError(f"{flag} {word}: no size{nearest(name, [*PINNABLE, *known])}; legal: {legal}", field=flag)
        if not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{flag} {word}: a whole number of at least 1 is wanted", field=flag, value=value)
        if found.get(name, int(value)) != int(value):
            raise ConfigError(f"{flag} {word}: {name} is also {found[name]}; leave one out", field=flag, value=value)
        found[name] = int(value)
    return found


def check_pins(pins: Mapping[str, int], most: Mapping[str, int], devices: int) -> None:
    """ConfigError: pins that contradict a limit, each other or the number of devices."""
    for name, value in pins.items():
        if value > most.get(name, value):
            raise ConfigError(f"--pin {name}={value}, but --max {name}={most[name]}", field=name, value=value)
    axes = ("attention.tp", "attention.cp", "attention.dp", "pipeline.stages", "replicas")
    named = {name: pins[name] for name in axes if name in pins}
    world = 1
    for value in named.values():
        world *= value
    if world > devices:
        text = " x ".join(f"{name} {value}" for name, value in named.items())
        raise ConfigError(f"--pin {text} = {world}, but the cluster has {devices} devices", field="pin", value=world)
