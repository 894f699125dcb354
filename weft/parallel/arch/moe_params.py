"""The weights of a layer with experts: router, routed experts, shared experts."""

from __future__ import annotations

from collections.abc import Iterator

from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.family import TensorNames
from weft.parallel.arch.spec import Cut, ParamSpec


def moe_specs(c: ModelConfig, names: TensorNames, src: str, dst: str, experts: int | None) -> Iterator[ParamSpec]:
    """One layer's experts; `src`, `dst`: prefixes of checkpoint and runtime names.

    A rank's slots lie one after the other in `experts.gate_up.weight` (gate then up of each) and `experts.down.weight`.
    """
    moe, hidden = c.moe, c.hidden_size
    assert moe is not None
    gate = f"{src}.{names.router}"
    yield ParamSpec(f"{gate}.weight", (moe.num_experts, hidden), "router", f"{dst}.router.weight")
    if moe.correction_bias:
        name = f"{gate}.e_score_correction_bias"
        yield ParamSpec(name, (moe.num_experts,), "router", f"{dst}.router.correction")
    for expert in range(moe.num_experts if experts is None else experts):
        yield from _expert(moe, hidden, f"{src}.experts.{expert}", f"{dst}.experts", names, expert)
    if moe.shared_intermediate_size:
        yield from _shared(moe, hidden, f"{src}.{names.shared_experts}", f"{dst}.shared_experts", names)


def _expert(moe: MoEConfig, hidden: int, src: str, dst: str, names: TensorNames, expert: int) -> Iterator[ParamSpec]:
    wide, cut, down = (moe.intermediate_size, hidden), Cut.EXPERT, names.expert_down
    for part, name in enumerate(names.expert_gate_up):
        yield ParamSpec(f"{src}.{name}.weight", wide, "experts", f"{dst}.gate_up.weight", part, 0, cut, expert)
    yield ParamSpec(f"{src}.{down}.weight", wide[::-1], "experts", f"{dst}.down.weight", 0, 1, cut, expert)


def _shared(moe: MoEConfig, hidden: int, src: str, dst: str, names: TensorNames) -> Iterator[ParamSpec]:
    wide, module, down = (moe.shared_intermediate_size, hidden), "shared_experts", names.down
    for part, name in enumerate(names.gate_up):
        yield ParamSpec(f"{src}.{name}.weight", wide, module, f"{dst}.gate_up.weight", part, 0, Cut.SHARED)
    yield ParamSpec(f"{src}.{down}.weight", wide[::-1], module, f"{dst}.down.weight", 0, 1, Cut.SHARED)
