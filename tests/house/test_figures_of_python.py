"""What Python costs in a step, what a change cost, and what ranks take of addresses, in docs, against what is saved."""

from __future__ import annotations

import pytest

from tests.support.figures import PERFORMANCE, ROOT, saved
from weft.launch_plan.memory import ADDRESS_BYTES, MIB, PROCESS_BYTES


def of(name: str) -> dict[int, dict[str, float]]:
    """What steps of so many running requests cost."""
    return {case["running"]: case for case in saved(name)["cases"] if case["context"] == 128}


def best_and_median(name: str, between: str) -> str:
    each = of(name)
    keys = ("decode_step_us_mean", "decode_step_us_mean_of_rounds")
    found = [f"{each[count][key]:.0f}" for key in keys for count in (1024, 256, 32)]
    return "{}, {} and {}, {} {}, {} and {}".format(*found[:3], between, *found[3:])


@pytest.mark.parametrize(("page", "machine"), [("zen4", "the machine"), ("zen5", "that"), ("amx", "that")])
def test_the_scheduler_on_other_machines(page: str, machine: str) -> None:
    name = f"scheduler_cost_{page}.json"
    now = best_and_median(name, "of the median round").replace(",", " us,", 1)
    assert f"On {machine} of `peers-{page}.md` it is {now} (`{name}`)" in PERFORMANCE


def test_the_scheduler() -> None:
    steps, before = of("scheduler_cost_xeon.json"), of("scheduler_cost.json")
    engine = {count: steps[count]["decode_step_us_mean"] for count in (32, 256, 1024)}
    words = "cost the engine {:.0f} us of Python a step, 256 cost {:.0f}, 32 cost {:.0f} ("
    assert words.format(*(engine[count] for count in (1024, 256, 32))) in PERFORMANCE
    rounds = saved("scheduler_cost_xeon.json")["rounds"]
    rest = [f"{steps[count]['decode_step_us_mean_of_rounds']:.0f}" for count in (1024, 256, 32)]
    assert f"the round of {rounds} that took least" in PERFORMANCE
    assert f"of the median round {rest[0]}, {rest[1]} and {rest[2]}): with" in PERFORMANCE
    assert f"takes a block in every step, {(engine[1024] - engine[32]) / (1024 / 16):.1f} us each" in PERFORMANCE
    assert f"in Python too, {steps[1024]['inputs_us'] + steps[1024]['sampler_us']:.0f} us for 1,024" in PERFORMANCE
    assert f"right before it were {best_and_median('scheduler_cost_zen4_f0a9926.json', 'and')}, of" in PERFORMANCE
    profile = saved("step_profile_zen4.json")["cases"]
    alone, crowd = (f"{profile[case]['scheduler']['us']:.0f}" for case in ("1 stream", "32 streams"))
    assert f"it is {alone} us with one stream and {crowd} with 32 (`step_profile_zen4.md`)" in PERFORMANCE
    assert f"the whole was {before[1024]['whole_step_us']:.0f} us when filled blocks were hashed" in PERFORMANCE


def test_before_and_after_the_cache_was_rearranged() -> None:
    found = saved("beside_9344ef8_xeon.json")["cases"]
    ratios = [case["this one"]["ratio"] for case in found.values()]
    words = f"{len(ratios)} kinds of bursts had {min(ratios):.2f} to {max(ratios):.2f} of their speed before"
    assert words in PERFORMANCE


def test_addresses_beside_what_is_planned() -> None:
    ranks = [rank for case in saved("address_space.json")["cases"].values() for rank in case]
    found = [rank["beside"] for rank in ranks]
    page = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"a rank takes {min(found)} to {max(found)} MiB of addresses" in page
    assert max(found) * MIB <= ADDRESS_BYTES
    left, known = ADDRESS_BYTES // MIB, PROCESS_BYTES // MIB
    assert (
        f"less {left - known} MiB. For" in page and f"{left:,} are left for them, of which the plan has {known}" in page
    )
