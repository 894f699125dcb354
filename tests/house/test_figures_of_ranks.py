"""Figures of several ranks beside one, in README and docs, against what is saved."""

from __future__ import annotations

import re

from benchmarks.rank_bound import bound
from tests.support.figures import PERFORMANCE, PLAIN, RESULTS, gaps, leads, ratios, rows, saved
from weft.program.dealt_rows import dealt_from

NAMES = ("bound", "with_engine")
RANK_CASES = ("decode", "32 streams", "prefill of 1,024")


def test_several_ranks() -> None:
    def reached(name: str) -> list[str]:
        cases = saved(name)["cases"]
        return [f"{cases[case]['ratio']:.2f}" for case in RANK_CASES]

    one, many, prompt = reached("several_ranks_vnni.json")
    assert f"{one} of its speed with one stream, {many} with 32 and {prompt} in a prompt of 1,024" in PLAIN
    one, many, prompt = reached("several_ranks_even_vnni.json")
    assert f"with heads that divide {one}, {many} and {prompt}" in PLAIN


def test_lent_cores() -> None:
    cases = saved("several_ranks_xeon.json")["cases"]
    ways = ("several", "several, even heads", "several, no core lent")
    titles = {"decode": "one stream", "prefill of 1,024": "a prompt of 1,024"}
    for case, measured in cases.items():
        reached = [f"{measured[way]['ratio']:.2f}" for way in ways]
        assert f"| {titles.get(case, case)} | {' | '.join(reached)} |" in PERFORMANCE
    told = zip(*([f"{cases[case][way]['ratio']:.2f}" for way in ways] for case in RANK_CASES), strict=True)
    lent, even, waiting = ("{}, {} and {}".format(*each) for each in told)
    assert (
        f"with nine heads they reach {lent} on the Intel machine, with query heads dealt evenly {even},"
        f" with no core lent {waiting}" in PLAIN
    )
    found = [measured[way] for measured in cases.values() for way in ways]
    below = max(each["ratio"] - each["ratio_q1"] for each in found)
    above = max(each["ratio_q3"] - each["ratio"] for each in found)
    assert f"quartiles lie up to {below:.2f} below and {above:.2f} above" in PERFORMANCE


def test_lent_cores_with_heads_that_divide() -> None:
    cases = saved("several_ranks_even_xeon.json")["cases"]
    one, many, prompt = (f"{cases[case]['several']['ratio']:.2f}" for case in RANK_CASES)
    assert f"reach {one} with one stream, {many} with 32 and {prompt} in a prompt of 1,024" in PERFORMANCE
    apart = max(abs(case["several"]["ratio"] - case["several, even heads"]["ratio"]) for case in cases.values())
    assert f"differ by up to {apart:.2f}" in PERFORMANCE


def test_lent_cores_where_products_of_bf16_are_few() -> None:
    order = ("decode", "8 streams", "32 streams", "prefill of 1,024")
    lent = ratios("several_ranks_zen4.json", "several", order)
    waiting = ratios("several_ranks_zen4.json", "several, no core lent", order)
    later, earlier, older = (
        ratios(f"several_ranks_zen4_{of}.json", "several", order) for of in ("25de1b7", "4e093dc", "2355a9c")
    )
    words = "on the machine of `peers-zen4.md` {} with one stream, {} with 8, {} with 32 and {} in a prompt"
    assert f"{words.format(*lent)} (`several_ranks_zen4.json`;" in PLAIN
    assert "with no core lent {}, {}, {} and {}. Four hours later".format(*waiting) in PLAIN
    assert "it was {}, {}, {} and {} (`several_ranks_zen4_25de1b7.json`".format(*later) in PLAIN
    assert "hours earlier {}, {}, {} and {} (`several_ranks_zen4_4e093dc.json`".format(*earlier) in PLAIN
    assert "of older code {}, {}, {} and {} (`several_ranks_zen4_2355a9c.json`)".format(*older) in PLAIN
    profile = saved("step_profile_zen4_tp2.json")["cases"]
    few, many = sorted(100 * profile[f"1 stream, rank {rank}"]["all_reduce"]["share"] for rank in (0, 1))
    told = (
        f"where one stream comes to {lent[0]}, sums with what ranks wait are {few:.0f} and {many:.0f} % of their steps"
    )
    assert told in PERFORMANCE
    idle = sorted(100 * profile[f"1 stream, rank {rank}"]["between the operations"]["share"] for rank in (0, 1))
    assert "and {:.0f} and {:.0f} % lie between operations".format(*idle) in PERFORMANCE
    first, second = (
        [profile[f"1 stream, rank {rank}"][name]["us"] for name in ("linear attention.qkv", "all_reduce")]
        for rank in (0, 1)
    )
    told = "spends {:.0f} us on queries, keys and values, the other one {:.0f}, and {:.0f} in sums, against {:.0f}."
    assert told.format(first[0], second[0], second[1], first[1]) in PERFORMANCE


def test_what_two_ranks_lack_is_told_beside_the_leads() -> None:
    served: list[str] = []
    for machine in ("zen5", "zen4", "amx", "avx2", "vnni"):
        found = leads(f"peers-{machine}.md")
        of = "{}, {} and {}".format(*(found["weft-tp2", f"http{streams}", "output"] for streams in (1, 8, 32)))
        served.append(f"{of} of its speed on {machine}" if not served else f"{of} on {machine}")
    assert f"Two ranks over HTTP beside one, with 1, 8 and 32 streams: {', '.join(served)}, whose" in PLAIN
    (before, *together), (before_once, *once) = zip(
        *map(memory_of_two_ranks, ("zen4", "zen5", "amx", "avx2")), strict=True
    )
    assert int(before) > 1400 > max(map(int, together))
    assert f"is above 1.4 GB on zen4 ({before} MB)" in PLAIN
    told = f"serving 32 streams takes {before} MB together on the machine of `peers-zen4.md`"
    told += f" where what both map counts in each, {before_once} where it counts once. That page is of code before"
    assert told in PERFORMANCE
    told = "it is {}, {} and {} since, {}, {} and {} where it counts once.".format(*together, *once)
    assert f"on those of `peers-zen5.md`, `peers-amx.md` and `peers-avx2.md` {told}" in PERFORMANCE


def test_gaps_between_tokens_of_two_ranks_are_told_beside_the_leads() -> None:
    pages = {machine: f"peers-{machine}.md" for machine in ("zen5", "amx", "zen4", "avx2")}
    two = [f"{{}}, {{}} and {{}} on {machine}".format(*gaps(page, "weft-tp2")) for machine, page in pages.items()]
    told = "The slowest hundredth of the times between tokens of 1, 8 and 32 streams that two ranks serve is"
    assert f"{told} {', '.join(two)} times their median; one rank's" in PLAIN
    most = max(float(each) for page in pages.values() for each in gaps(page))
    assert f"; one rank's is at most {most} there." in PLAIN


def memory_of_two_ranks(machine: str) -> tuple[str, str]:
    """MB of all processes while 32 streams are served: what both map in each of them, and once."""
    page = (RESULTS / f"peers-{machine}.md").read_text()
    both, once = re.findall(r"\| weft-tp2 \| bf16 \| 32 \|.*\| (\d+) \((\d+)\) \|", page)[0]
    return both, once


def test_two_ranks_over_http() -> None:
    served = rows("Over HTTP", 2, "peers-xeon.md")
    two, one = (
        [served[name, n]["output tok/s"].split()[0] for n in ("1", "8", "32")] for name in ("weft-tp2", "weft-tp1")
    )
    words = "get {}, {} and {} tokens a second from two ranks with five and four heads, {}, {} and {} from one"
    assert words.format(*two, *one) in PERFORMANCE
    profile = saved("step_profile_xeon_tp2.json")["cases"]
    low, high = sorted(100 * profile[f"1 stream, rank {rank}"]["all_reduce"]["share"] for rank in (0, 1))
    assert f"61 a token, {low:.0f} and {high:.0f} % of its step" in PERFORMANCE


def test_what_two_ranks_can_reach() -> None:
    found = saved("rank_bound_xeon.json")["cases"]
    one_rank, two_ranks, latencies = map(
        saved, ("step_profile_xeon.json", "step_profile_xeon_tp2.json", "comm_latency.json")
    )
    again = {case: bound(case, one_rank, two_ranks, latencies) for case in found}
    assert again == found, "benchmarks/rank_bound.py --save"
    one, eight, many, prompt = (f"{each['bound']:.2f}" for each in found.values())
    words = (
        f"{one} of one rank's speed are left with one stream, {eight} with 8, {many} with 32 and {prompt} in a prompt"
    )
    assert words in PERFORMANCE
    sums, norms = (100 * found["prefill 1024"][name] for name in ("sums", "norms"))
    assert f"where sums take {sums:.0f} % of a step and norms {norms:.0f}." in PERFORMANCE


def test_what_two_ranks_can_reach_beside_the_engine() -> None:
    found = saved("rank_bound_zen4.json")["cases"]
    names = ("step_profile_zen4.json", "step_profile_zen4_tp2.json", "comm_latency_zen4.json")
    one_thread = saved("step_profile_zen4_one_thread.json")
    one_rank, two_ranks, latencies = map(saved, names)
    again = {case: bound(case, one_rank, two_ranks, latencies, one_thread) for case in found}
    assert again == found, "benchmarks/rank_bound.py --save"
    bounds, left = ([f"{each[name]:.2f}" for each in found.values()] for name in ("bound", "with_engine"))
    assert "By the bound {}, {}, {} and {} could be had".format(*bounds) in PERFORMANCE
    told = "while the other waits, {}, {}, {} and {} (`rank_bound_zen4.json`)"
    assert told.format(*left) in PERFORMANCE
    both, alone = (each["cases"]["1 stream"]["whole step"]["us"] for each in (one_rank, one_thread))
    assert f"its other thread, which alone has {100 * both / alone:.0f} % of the speed of both." in PERFORMANCE


def test_what_two_ranks_can_reach_in_tile_registers() -> None:
    found = saved("rank_bound_amx.json")["cases"]
    names = ("step_profile_amx.json", "step_profile_amx_tp2.json", "comm_latency_amx.json")
    one_rank, two_ranks, latencies = map(saved, names)
    one_thread = saved("step_profile_amx_one_thread.json")
    again = {case: bound(case, one_rank, two_ranks, latencies, one_thread) for case in found}
    assert again == found, "benchmarks/rank_bound.py --save"
    bounds, left = ("{}, {}, {} and {}".format(*(f"{each[name]:.2f}" for each in found.values())) for name in NAMES)
    told = f"would leave {bounds} of one rank's speed there with 1, 8 and 32 streams and in a prompt, with the engine's"
    assert f"{told} Python {left} (`rank_bound_amx.json`)." in PERFORMANCE


def test_before_and_after_ranks_left_logits_where_they_are() -> None:
    found = saved("beside_6fb741a_zen4_tp2.json")["cases"]
    streams = [found[case]["this one"]["ratio"] for case in ("decode", "8 streams", "32 streams", "64 streams")]
    words = f"1 to 64 streams that decode had {min(streams):.2f} to {max(streams):.2f} of their speed before"
    assert words in PERFORMANCE


def test_before_and_after_ranks_dealt_norms() -> None:
    found = saved("beside_716b59a_zen4_tp2.json")["cases"]
    prompt, one, eight, many = (
        f"{found[case]['this one']['ratio']:.2f}" for case in ("prefill of 1,024", "decode", "8 streams", "32 streams")
    )
    words = f"two ranks are {prompt} times as fast in a prompt of 1,024, {one} with one stream and {eight} and {many}"
    assert f"{words} with 8 and 32 (`beside_716b59a_zen4_tp2.json`, 8 rounds)." in PERFORMANCE


def test_from_how_many_rows_on_norms_are_dealt() -> None:
    shares = [case["ratio"] for case in saved("dealt_rows_zen4.json")["cases"]]
    assert f"takes {min(shares):.2f} to {max(shares):.2f} of the time of both doing all of it" in PERFORMANCE
    found = saved("beside_6f8743d_zen4_tp2.json")["cases"]
    some, many = (f"{found[case]['this one']['ratio']:.2f}" for case in ("32 streams", "64 streams"))
    assert f"32 and 64 streams have {some} and {many} of the speed (`beside_6f8743d_zen4_tp2.json`" in PERFORMANCE
    assert f"(from {dealt_from(576)} on with 576 numbers each)" in PERFORMANCE


def test_two_ranks_engine_by_engine_where_products_of_bf16_are_few() -> None:
    found = leads("peers-zen4.md")
    cases = (("decode", "decode"), ("streams8", "output"), ("streams32", "output"))
    one, eight, many = (found["weft-tp2", *case] for case in cases)
    http = [found["weft-tp2", f"http{count}", "output"] for count in (1, 8, 32)]
    told = f"two ranks have {one} of one's speed with one stream, {eight} and {many} with 8 and 32, over HTTP"
    assert f"{told} {http[0]}, {http[1]} and {http[2]}, and their slowest" in PERFORMANCE
    few, some, most = gaps("peers-zen4.md", "weft-tp2")
    assert f"between tokens is {few}, {some} and {most} times the median with 1, 8 and 32 streams;" in PERFORMANCE
    found = leads("peers-xeon.md")
    one, eight, many = (found["weft-tp2", *case] for case in cases)
    told = f"{one}, {eight} and {many}, in a prompt {found['weft-tp2', 'prefill', 'prefill']}"
    assert f"(`peers-xeon.md`) two ranks have {told}." in PERFORMANCE
