"""Clusters: how many devices there are, what each has, and with which rates it is counted. One kind of device.

A cluster is a name of the table with a number of devices (h200x16), a YAML file, or `here`, whose devices are cores
that share one memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import yaml

from weft.base.data_files import read_toml
from weft.base.errors import ConfigError
from weft.base.options import nearest, parse_bytes

PRODUCT_FLOOR, INSIDE_FLOOR, ACROSS_FLOOR, STEP_FLOOR = 3e-6, 10e-6, 20e-6, 100e-6
"""Seconds of one product, of one collective inside a node and across nodes, and of a step, where none are measured."""
FLOORS = "floors assumed: 3 us a product, 10 us a collective in a node, 20 us across, 100 us a step"
HERE_BANDWIDTH, HERE_PRODUCTS, HERE_LINK = 10e9, 30e9, 4e9
"""Of one core, where nothing was measured: for an order only."""
USABLE = 0.9
"""Part of a device's memory that is counted on; the rest is for what else is there."""
LEAST_MEMORY = 1 << 28
"""Bytes; less is not meant for a device."""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table."""

    memory: int
    bandwidth: float
    products: dict[str, float]
    inside: float
    across: float
    node: int
    source: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one device: bytes and multiply-adds a second, bytes received a second, and floors in seconds. `source`: where
    they are from; `measured`: on this machine."""

    bandwidth: float
    products: float
    inside: float
    across: float
    source: str
    product_floor: float = PRODUCT_FLOOR
    inside_floor: float = INSIDE_FLOOR
    across_floor: float = ACROSS_FLOOR
    step_floor: float = STEP_FLOOR
    measured: bool = False

    def __post_init__(self) -> None:
        for name in ("bandwidth", "products", "inside", "across"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name):g}: a number above 0 is wanted", field=name)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`devices` in nodes of `per_node`; `memory` of each. `shared`: one machine, whose memory and memory bandwidth all
    of its ranks share: `devices` are cores, and a rank of a smaller world has several."""

    name: str
    devices: int
    per_node: int
    memory: int
    rates: Rates
    shared: bool = False

    def crosses(self, group: tuple[int, ...], first: int = 0) -> bool:
        """Whether ranks of `group`, counted from rank `first`, are on several nodes."""
        return len({(first + rank) // self.per_node for rank in group}) > 1

    def budget(self, world: int) -> int:
        """Bytes that one rank of `world` may have."""
        return int(self.memory * self.devices // world if self.shared else self.memory * USABLE)

    def scale(self, world: int) -> float:
        """How many times a device's rates one rank of `world` has."""
        return self.devices / world if self.shared else 1.0


def named_devices() -> dict[str, Device]:
    """The table."""
    return read_toml("weft.tools.plan", "devices.toml", dict[str, Device])


def read_cluster(word: str, dtype: str) -> Cluster:
    """A cluster by name or file, counted at `dtype`. ConfigError: what is not known, or cannot be meant."""
    table = named_devices()
    if word.endswith((".yaml", ".yml", ".json")) or "/" in word:
        return _of_file(Path(word), dtype, table)
    match = re.fullmatch(r"(.+?)x(-?\d+)", word.lower())
    name = match[1] if match else word.lower()
    if name not in table:
        legal = (*(f"{each}xN" for each in table), "here", "a YAML file")
        near = nearest(name, table)
        raise ConfigError(
            f"cluster {word}: unknown device {name}{near}; legal: {', '.join(legal)}", field="cluster", value=word
        )
    if match is None:
        raise ConfigError(f"cluster {word}: say how many devices, as {name}x8", field="cluster", value=word)
    device = table[name]
    count = _positive("cluster", int(match[2]))
    return _cluster(word, count, min(count, device.node), device, dtype)


def of_machine(cores: int, memory: int, rates: Rates | None = None) -> Cluster:
    """This machine."""
    assumed = Rates(
        HERE_BANDWIDTH, HERE_PRODUCTS, HERE_LINK, HERE_LINK,
        "rates assumed, nothing was measured: order only; weft calibrate measures them", step_floor=1e-3,
    )  # fmt: skip
    return Cluster("here", cores, cores, memory, rates or assumed, shared=True)


def _cluster(name: str, count: int, per_node: int, device: Device, dtype: str) -> Cluster:
    if dtype not in device.products:
        legal = ", ".join(device.products)
        raise ConfigError(f"dtype {dtype}: no rate of {name}; legal: {legal}", field="dtype", value=dtype)
    rates = Rates(
        device.bandwidth, device.products[dtype], device.inside, device.across,
        f"data sheet: order only ({device.source}; {FLOORS})",
    )  # fmt: skip
    return Cluster(name, count, per_node, device.memory, rates)


_KEYS = ("nodes", "devices", "device", "memory", "bandwidth", "products", "inside", "across", "source")


def _of_file(path: Path, dtype: str, table: dict[str, Device]) -> Cluster:
    """nodes, devices (a node), and a `device` of the table, or all of its numbers; numbers given win."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cluster {path}: {why}", field="cluster", value=str(path)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"cluster {path}: {str(error).splitlines()[0]}", field="cluster", value=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"cluster {path}: a mapping is wanted, with {', '.join(_KEYS)}", field="cluster")
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"cluster {path}: unknown key {key}{nearest(str(key), _KEYS)}", field=str(key))
    nodes, devices = (_positive(key, content.get(key, 1)) for key in ("nodes", "devices"))
    word = content.get("device")
    if word is not None and word not in table:
        raise ConfigError(
            f"device {word}: unknown{nearest(str(word), table)}; legal: {', '.join(table)}", field="device"
        )
    base = table[word] if word is not None else None
    own = {key: _number(key, content[key]) for key in ("bandwidth", "inside", "across") if key in content}
    given = content.get("products", {})
    if not isinstance(given, dict):
        raise ConfigError(
            f"products {given}: a mapping of dtypes to multiply-adds a second is wanted", field="products"
        )
    products = {str(key): _number(f"products.{key}", value) for key, value in given.items()}
    memory = _memory(content["memory"]) if "memory" in content else base.memory if base else None
    missing = [key for key in ("bandwidth", "inside", "across") if key not in own and base is None]
    missing += ["memory"] if memory is None else []
    missing += ["products"] if base is None and not products else []
    if missing or memory is None:
        raise ConfigError(f"cluster {path}: {', '.join(missing)} missing; give them, or a device", field="cluster")
    source = str(content.get("source", base.source if base and not own else path.name))
    device = Device(
        memory=memory, node=devices, source=source,
        products={**(base.products if base else {}), **products},
        **{key: own.get(key, getattr(base, key, 0.0)) for key in ("bandwidth", "inside", "across")},
    )  # fmt: skip
    return replace(_cluster(path.stem, nodes * devices, devices, device, dtype), name=path.stem)


def _memory(value: object) -> int:
    found = value if isinstance(value, int) else parse_bytes(str(value))
    if not found or found < LEAST_MEMORY:
        raise ConfigError(
            f"memory {value}: of one device, at least 256MiB, as 141GB or 80GiB", field="memory", value=value
        )
    return found


def _positive(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{field} {value}: a whole number of at least 1 is wanted", field=field, value=value)
    return value


def _number(field: str, value: object) -> float:
    try:
        found = float(str(value))
    except ValueError:
        found = 0.0
    if not found > 0:
        raise ConfigError(f"{field} {value}: a number above 0 is wanted", field=field, value=value)
    return found
