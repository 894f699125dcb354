"""The sizes of a layout while some may still be open (None), and arithmetic that keeps open what depends on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from weft.parallel.layout import Given, Layout, resolve
from weft.parallel.layout.layout import layout_settings

Size = int | None
"""A number of ranks; None: open."""


def whole_number(text: str) -> int | None:
    """The number that a text of digits is; None for any other text, and for digits that no count of anything has."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 19 else None


def times(*sizes: Size) -> Size:
    """The product; open if a factor is."""
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def quotient(size: Size, *parts: Size) -> Size:
    """size / parts, rounded down and at least 1; open if one of them is. Check `divides` where a rest is a mistake."""
    product = times(*parts)
    return None if size is None or product is None else max(1, size // max(1, product))


def divides(part: Size, whole: Size) -> bool:
    """Whether part divides whole; True while one of them is open."""
    return part is None or whole is None or (part > 0 and whole % part == 0)


@dataclass(slots=True, kw_only=True)
class Sizes:
    """All fields of a layout, flat. Fields left at None are open, except layers and the `within`s."""

    nodes: Size = 1
    replicas: Size = 1
    stages: Size = 1
    layers: tuple[int, ...] | None = None
    tp: Size = 1
    dp: Size = 1
    cp: Size = 1
    kv_split: Size = 1
    split: str = "auto"
    o_proj: Size = 1
    o_proj_within: str | None = None
    dense: Size = 1
    moe: bool = False
    num_experts: Size = None
    expert_tp: Size = 1
    expert_ep: Size = 1
    slots: Size = None
    dispatch: str = "auto"
    policy: str = "none"
    interval: int = 1000
    shared: Size = 1
    embedding: Size = 1
    lm_head: Size = 1
    lm_head_within: str | None = None
    stated_world: Size = None
    """All ranks, where that is known although factors are open."""
    derived: frozenset[str] = field(default=frozenset())
    """Dotted names that the engine's defaults decided."""

    @property
    def stage(self) -> Size:
        """Ranks of one pipeline stage of one replica."""
        return times(self.tp, self.dp, self.cp)

    @property
    def world(self) -> Size:
        """All ranks."""
        product = times(self.stage, self.stages, self.replicas)
        return self.stated_world if product is None else product

    def given(self) -> dict[str, object]:
        """Dotted names -> values; open sizes are None."""
        values: dict[str, object] = {
            "nodes": self.nodes,
            "replicas": self.replicas,
            "pipeline.stages": self.stages,
            "pipeline.layers": self.layers,
            "attention.tp": self.tp,
            "attention.dp": self.dp,
            "attention.cp": self.cp,
            "attention.kv_split": self.kv_split,
            "attention.split": self.split,
            "o_proj.tp": self.o_proj,
            "o_proj.within": self.o_proj_within,
            "dense.tp": self.dense,
            "embedding.tp": self.embedding,
            "lm_head.tp": self.lm_head,
            "lm_head.within": self.lm_head_within,
        }
        return values | (self._given_experts() if self.moe else {})

    def _given_experts(self) -> dict[str, object]:
        return {
            "experts.tp": self.expert_tp,
            "experts.ep": self.expert_ep,
            "experts.slots": self.slots,
            "experts.dispatch": self.dispatch,
            "experts.balance.policy": self.policy,
            "experts.balance.interval": self.interval,
            "shared_experts.tp": self.shared,
        }

    @property
    def open(self) -> tuple[str, ...]:
        """Dotted names of the open sizes."""
        optional = {"pipeline.layers", "o_proj.within", "lm_head.within"}
        return tuple(name for name, value in self.given().items() if value is None and name not in optional)

    def document(self) -> dict[str, object]:
        """The layout's nested document in its order, with world; open sizes are null."""
        given = self.given()
        document: dict[str, object] = {"world": self.world}
        for setting in layout_settings():
            section = setting.name.partition(".")[0]
            if section in ("experts", "shared_experts") and not self.moe:
                document[section] = None
                continue
            value = given[setting.name]
            _put(document, setting.name, list(value) if isinstance(value, tuple) else value)
        return document

    def build(self) -> Layout | None:
        """The layout; None while a size is open. Raises LayoutError for what no world can have."""
        open_names = self.open
        if open_names and set(open_names) != {"experts.slots"}:
            return None
        given: Given = {name: value for name, value in self.given().items() if value is not None}
        if open_names:
            # The number of experts is unknown: everything else is checked all the same.
            resolve(given, num_experts=self.expert_ep or 1)
            return None
        experts = (self.num_experts or self.slots or 0) if self.moe else 0
        return replace(resolve(given, num_experts=experts), derived=self.derived)


def _put(document: dict[str, object], name: str, value: object) -> None:
    *path, leaf = name.split(".")
    for part in path:
        inner = document.setdefault(part, {})
        assert isinstance(inner, dict)
        document = inner
    document[leaf] = value
