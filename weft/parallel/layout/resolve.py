"""From a user's options to a full Layout: defaults, world size, refusals.

Defaults: attention tp 1, dp what is left of the world (1 without a world size); o_proj, dense, embedding, lm_head and
shared_experts take attention.tp; experts take tp 1 and ep the rest of the stage, slots one per expert.
"""

from __future__ import annotations

from collections.abc import Iterable

from weft.base.errors import LayoutError
from weft.base.options import made, nearest
from weft.parallel.layout.counts import check_ranks, divisors
from weft.parallel.layout.layout import (
    WORLD,
    AttentionLayout,
    BalanceLayout,
    DenseLayout,
    EmbeddingLayout,
    ExpertsLayout,
    Given,
    Layout,
    LMHeadLayout,
    OProjLayout,
    PipelineLayout,
    SharedExpertsLayout,
    layout_settings,
)
from weft.parallel.layout.rules import check_sizes, join

_FIXED_DEFAULTS: dict[str, object] = {
    "nodes": 1,
    "replicas": 1,
    "attention.cp": 1,
    "attention.kv_split": 1,
    "attention.split": "auto",
    "pipeline.layers": None,
    "o_proj.within": None,
    "lm_head.within": None,
    "experts.dispatch": "auto",
    "experts.balance.policy": "none",
    "experts.balance.interval": 1000,
}


def resolve(given: Given, world_size: int | None = None, tp: int | None = None, *, num_experts: int = 0) -> Layout:
    """The layout that follows from what was given.

    `world_size` is the number of ranks ("world" in a document), `tp` the default size of every module, `num_experts`
    the model's routed experts (0: a dense model). Raises LayoutError with field, value and legal values.
    """
    values = _checked(given)
    world_size = _one_world(values.pop("world", None), world_size)
    for field, number in (("--world-size", world_size), ("--tp", tp)):
        if number is not None and (problem := WORLD.problem(number)):
            raise LayoutError(f"{field}: {problem}", field=field, value=number)
        check_ranks(field, f"{field} {number}", number or 1)
    if tp is not None and "attention.tp" in values:
        raise LayoutError(
            "--tp / --tensor-parallel-size sizes every module, attention included; "
            "it cannot be given together with attention.tp (--attn-tp-size, or the layout file)",
            field="attention.tp",
            value=values["attention.tp"],
        )
    sizes = _Sizes(values)
    _stage(sizes, world_size, tp)
    _modules(sizes)
    if num_experts:
        _experts(sizes, tp, num_experts)
    else:
        _refuse_experts(values)
    check_sizes(layout := _build(sizes, bool(num_experts)))
    return layout


class _Sizes:
    """The given values, completed default by default; remembers which were defaulted."""

    def __init__(self, values: dict[str, object]) -> None:
        self.values, self.derived = values, set[str]()

    def default(self, name: str, value: object) -> None:
        if name not in self.values:
            self.values[name] = value
            self.derived.add(name)

    def number(self, name: str) -> int:
        value = self.values[name]
        assert isinstance(value, int)
        return value


def _checked(given: Given) -> dict[str, object]:
    """Given values in their own types; unknown names and wrong values refused."""
    known = {setting.name: setting for setting in layout_settings()}
    values: dict[str, object] = {}
    for name, value in given.items():
        if name == "world":
            values[name] = value
            continue
        if name not in known:
            raise LayoutError(f"unknown layout field {name}{nearest(name, known)}", field=name, value=value)
        if value is None:
            continue
        problem = known[name].problem(value)
        if problem:
            raise LayoutError(f"{name}: {problem}", field=name, value=value, legal=known[name].option.choices)
        values[name] = known[name].normal(value)
    return values


def _one_world(stated: object, world_size: int | None) -> int | None:
    if stated is None:
        return world_size
    if problem := WORLD.problem(stated):
        raise LayoutError(f"world: {problem}", field="world", value=stated)
    world = WORLD.normal(stated)
    assert isinstance(world, int)
    check_ranks("world", f"world {world}", world)
    if world_size is not None and world != world_size:
        raise LayoutError(f"world {world} in the layout, but --world-size is {world_size}", field="world", value=world)
    return world


def _stage(sizes: _Sizes, world_size: int | None, tp: int | None) -> None:
    """Attention's sizes, stages and replicas, and dp from the world."""
    sizes.default("attention.tp", tp or 1)
    for name, value in _FIXED_DEFAULTS.items():
        if not name.startswith("experts."):
            sizes.default(name, value)
    _split(sizes)
    layers = sizes.values["pipeline.layers"]
    sizes.default("pipeline.stages", len(layers) if isinstance(layers, tuple) else 1)
    sizes.default("attention.dp", _missing_dp(sizes, world_size))
    parts = _parts(sizes)
    product = _product(parts.values())
    text = " x ".join(f"{name} {size}" for name, size in parts.items())
    check_ranks("world", text, product)
    if world_size is not None and product != world_size:
        raise LayoutError(f"{text} = {product}, but --world-size is {world_size}", field="world", value=world_size)


def _split(sizes: _Sizes) -> None:
    """`auto` on one node is "groups": its ranks share uneven work, and a KV head computed twice would add to it."""
    if sizes.values["attention.split"] == "auto" and sizes.number("nodes") == 1:
        del sizes.values["attention.split"]
        sizes.default("attention.split", "groups")


def _parts(sizes: _Sizes) -> dict[str, int]:
    """The factors of the world, in the words of a message."""
    names = {
        "attention tp": "attention.tp",
        "cp": "attention.cp",
        "dp": "attention.dp",
        "stages": "pipeline.stages",
        "replicas": "replicas",
    }
    return {word: sizes.number(name) for word, name in names.items() if name in sizes.values}


def _missing_dp(sizes: _Sizes, world_size: int | None) -> int:
    if world_size is None or "attention.dp" in sizes.values:
        return 1
    parts = _parts(sizes)
    rest = _product(parts.values())
    if world_size % rest:
        text = " x ".join(f"{name} {size}" for name, size in parts.items())
        tp = sizes.number("attention.tp")
        others = rest // tp
        legal = divisors(world_size // others) if world_size % others == 0 else ()
        change = f"; legal attention tp: {join(legal)}" if legal else ""
        raise LayoutError(
            f"{text} = {rest}, which does not divide --world-size {world_size}{change}",
            field="attention.tp",
            value=tp,
            legal=legal,
        )
    return world_size // rest


def _modules(sizes: _Sizes) -> None:
    for module in ("o_proj", "dense", "embedding", "lm_head"):
        sizes.default(f"{module}.tp", sizes.number("attention.tp"))


def _experts(sizes: _Sizes, tp: int | None, num_experts: int) -> None:
    """Experts' sizes: one expert set over the stage; with a tp for every module, tp * ep is that tp."""
    stage = sizes.number("attention.tp") * sizes.number("attention.cp") * sizes.number("attention.dp")
    span = tp or stage
    if "experts.tp" in sizes.values:
        sizes.default("experts.ep", max(1, span // sizes.number("experts.tp")))
    elif tp is not None and "experts.ep" not in sizes.values:
        sizes.default("experts.tp", tp)
        sizes.default("experts.ep", 1)
    else:
        ep = sizes.values.get("experts.ep")
        sizes.default("experts.tp", tp // ep if tp is not None and isinstance(ep, int) and tp % ep == 0 else 1)
        sizes.default("experts.ep", span)
    sizes.default("experts.slots", num_experts)
    for name, value in _FIXED_DEFAULTS.items():
        sizes.default(name, value)
    sizes.default("shared_experts.tp", sizes.number("attention.tp"))
    _check_slots(sizes.number("experts.slots"), sizes.number("experts.ep"), num_experts)


def _check_slots(slots: int, ep: int, num_experts: int) -> None:
    if slots == num_experts and ep <= num_experts:
        return  # one slot an expert: the first ranks may hold one more
    least = -(-num_experts // ep) * ep
    if slots == num_experts:
        have = f"the model has {num_experts} experts with a slot each"
        more = f"legal: at most {num_experts}, or experts slots {least}, {least + ep}, ..."
        raise LayoutError(f"experts ep {ep}: {have}; {more}", field="experts.ep", value=ep, legal=range(1, slots + 1))
    if slots < num_experts or slots % ep:
        legal = tuple(least + more * ep for more in range(4))
        raise LayoutError(
            f"experts slots {slots}: the model has {num_experts} experts and ep is {ep}; legal: {join(legal)}, ...",
            field="experts.slots",
            value=slots,
            legal=legal,
        )


def _refuse_experts(values: dict[str, object]) -> None:
    for name, value in values.items():
        if name.startswith(("experts.", "shared_experts.")):
            raise LayoutError(f"{name} {value}: the model has no experts; leave it out", field=name, value=value)


_PARTS: dict[str, type] = {
    "pipeline": PipelineLayout,
    "attention": AttentionLayout,
    "o_proj": OProjLayout,
    "dense": DenseLayout,
}
_PARTS |= {"embedding": EmbeddingLayout, "lm_head": LMHeadLayout}
"""The records inside a layout that every model has."""


def _build(sizes: _Sizes, moe: bool) -> Layout:
    nested: dict[str, dict[str, object]] = {}
    for name, value in sizes.values.items():
        record, _, leaf = name.rpartition(".")
        nested.setdefault(record, {})[leaf] = value
    parts: dict[str, object] = {name: made(record, nested[name]) for name, record in _PARTS.items()}
    if moe:
        balance = made(BalanceLayout, nested["experts.balance"])
        parts["experts"] = made(ExpertsLayout, nested["experts"] | {"balance": balance})
        parts["shared_experts"] = made(SharedExpertsLayout, nested["shared_experts"])
    absent = {"experts": None, "shared_experts": None}
    return made(Layout, {**absent, **nested[""], **parts, "derived": frozenset(sizes.derived)})


def _product(numbers: Iterable[int]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
