"""The weights of a layer with experts: router, routed experts, shared experts. Knows no layout."""

from __future__ import annotations

from collections.abc import Iterator

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.spec import Cut, ParamSpec

_MIXTRAL = ("block_sparse_moe", "w1", "w3", "w2")
_OTHERS = ("mlp", "gate_proj", "up_proj", "down_proj")
"""(block, gate, up, down) in the checkpoint's words."""


def moe_specs(c: ModelConfig, src: str, dst: str, experts: int | None) -> Iterator[ParamSpec]:
    """One layer's experts; `src`, `dst`: prefixes of checkpoint and runtime names.

    A rank's slots lie one after the other in `experts.gate_up.weight` (gate then up of each) and `experts.down.weight`.
    """
    moe, hidden = c.moe, c.hidden_size
    assert moe is not None
    block, *names = _MIXTRAL if c.family == "mixtral" else _OTHERS
    gate = f"{src}.{block}.gate"
    yield ParamSpec(f"{gate}.weight", (moe.num_experts, hidden), "router", f"{dst}.router.weight")
    if moe.correction_bias:
        name = f"{gate}.e_score_correction_bias"
        yield ParamSpec(name, (moe.num_experts,), "router", f"{dst}.router.correction")
    for expert in range(moe.num_experts if experts is None else experts):
        yield from _expert(moe, hidden, f"{src}.{block}.experts.{expert}", f"{dst}.experts", tuple(names), expert)
    if moe.shared_intermediate_size:
        yield from _shared(moe, hidden, f"{src}.{block}.shared_experts", f"{dst}.shared_experts")


def _expert(
    moe: MoEConfig, hidden: int, src: str, dst: str, names: tuple[str, ...], expert: int
) -> Iterator[ParamSpec]:
    gate, up, down = names
    wide, cut = (moe.intermediate_size, hidden), Cut.EXPERT
    for part, name in enumerate((gate, up)):
        yield ParamSpec(f"{src}.{name}.weight", wide, "experts", f"{dst}.gate_up.weight", part, 0, cut, expert)
    yield ParamSpec(f"{src}.{down}.weight", wide[::-1], "experts", f"{dst}.down.weight", 0, 1, cut, expert)


def _shared(moe: MoEConfig, hidden: int, src: str, dst: str) -> Iterator[ParamSpec]:
    wide, module = (moe.shared_intermediate_size, hidden), "shared_experts"
    for part, name in enumerate(("gate", "up")):
        yield ParamSpec(f"{src}.{name}_proj.weight", wide, module, f"{dst}.gate_up.weight", part, 0, Cut.SHARED)
    yield ParamSpec(f"{src}.down_proj.weight", wide[::-1], module, f"{dst}.down.weight", 0, 1, Cut.SHARED)
