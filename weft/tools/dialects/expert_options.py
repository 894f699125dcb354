"""Options of expert balancing that mean the same in weft, under its names; the others become notes.

Slots, policy and interval are not here: they belong to the layout.
"""

from __future__ import annotations

from weft.parallel.layout import Layout
from weft.tools.dialects.base import Draft
from weft.tools.dialects.flags import Arguments
from weft.tools.dialects.sizes import Sizes

_LOCATION, _UTILIZATION = "init_expert_location", "eplb_min_rebalancing_utilization_threshold"
_RECORDER = "expert_distribution_recorder_mode"


def carry_placement(draft: Draft, arguments: Arguments) -> None:
    """SGLang's and TokenSpeed's start of the experts, if it is a JSON file, and what they record."""
    location = draft.options.get(_LOCATION)
    if isinstance(location, str) and location.endswith(".json"):
        draft.options["expert_placement"] = draft.options.pop(_LOCATION)
        message = f"{arguments.given[_LOCATION].name} {location}: read if it holds a placement; of statistics, `weft"
        message += " experts balance` makes one"
        draft.note("info", "placement-file", message, arguments.where(_LOCATION))
    elif location is not None and location != "trivial":
        message = f"{arguments.given[_LOCATION].name} {location}: weft begins with a JSON or YAML file of slots"
        draft.note("warning", "placement-file", message, arguments.where(_LOCATION))
    if _RECORDER in draft.options:
        message = f"{arguments.given[_RECORDER].name}: weft records loads with --expert-stats FILE"
        draft.note("info", "statistics", message, arguments.where(_RECORDER))


def carry_threshold(draft: Draft, arguments: Arguments) -> None:
    """SGLang's utilization above which it leaves the experts alone: mean / maximum of the ranks' loads, as here."""
    value = draft.options.get(_UTILIZATION)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
        draft.options["eplb_threshold"] = float(value)
        del draft.options[_UTILIZATION]
        message = f"{arguments.given[_UTILIZATION].name} {value:g}: of all layers together in the engine, of each here"
        draft.note("info", "approximation", message, arguments.where(_UTILIZATION))


def take_slots(arguments: Arguments, sizes: Sizes) -> None:
    """SGLang's and TokenSpeed's redundant experts as slots of a mixture."""
    redundant = arguments.number("ep_num_redundant_experts", 0, minimum=0)
    if sizes.num_experts is not None and redundant is not None:
        sizes.slots = sizes.num_experts + redundant


def take_policy(arguments: Arguments, sizes: Sizes) -> None:
    """Their policy and interval, under --enable-eplb."""
    sizes.policy = "hierarchical" if "hierarchical" in arguments.text("eplb_algorithm") else "global"
    sizes.interval = arguments.number("eplb_rebalance_num_iterations", 1000) or 1000


def carry_window(draft: Draft, arguments: Arguments, window: int | None, interval: int) -> None:
    """vLLM's sliding window, in steps; here it ends with the interval and is no longer than it."""
    draft.options.pop("eplb_window_size", None)
    if window is None or window < 1:
        return
    draft.options["eplb_window"] = min(window, interval)
    if window > interval:
        dest = "eplb_config" if "eplb_config" in arguments else "eplb_window_size"
        message = (
            f"window_size {window}: the engine's window reaches back beyond a step_interval of {interval}; here it"
        )
        draft.note("info", "approximation", f"{message} is {interval} steps", arguments.where(dest))


def balancing_parts(layout: Layout, num_experts: int) -> list[tuple[str, object]]:
    """SGLang's and TokenSpeed's flags for a layout's redundant experts and its balancing."""
    experts = layout.experts
    if experts is None:
        return []
    redundant, balance = experts.slots - num_experts, experts.balance
    parts: list[tuple[str, object]] = [("--ep-num-redundant-experts", redundant)] if redundant > 0 else []
    if balance.policy != "none":
        parts.append(("--enable-eplb", None))
        parts += [("--eplb-algorithm", "deepseek_hierarchical")] if balance.policy == "hierarchical" else []
        parts.append(("--eplb-rebalance-num-iterations", balance.interval))
    return parts
