"""What bounds a step where vectors are AVX2, as docs/performance.md tells it, against what is saved."""

from __future__ import annotations

from typing import Any

from benchmarks.rank_bound import bound
from tests.support.figures import PERFORMANCE, bound_share, leads, rows, saved

PAGE = "peers-avx2.md"
AROUND = ("inputs, sampling, around the program", "inputs", "qkv", "norm attention_norm", "norm dense_norm")


def lead(ours: str, case: str = "decode", quantity: str = "decode") -> str:
    return leads(PAGE)[ours, case, quantity]


def rates_of_layers(profile: Any, case: str = "1 stream") -> tuple[str, str]:
    """GB/s at which the linear operations of layers read weights: the least and the most."""
    linear = {name: each for name, each in profile["cases"][case].items() if name.startswith("linear")}
    rates = [each["gb_per_s"] for name, each in linear.items() if "lm_head" not in name]
    return f"{min(rates):.1f}", f"{max(rates):.1f}"


def read_by_layers(name: str) -> tuple[dict[str, Any], str]:
    """What a token's operations take by a saved profile, and what its linear ones read, in words."""
    profile = saved(f"{name}.json")
    case, (least, most) = profile["cases"]["1 stream"], rates_of_layers(profile)
    told = f"read {least} to {most} GB/s where memory gave {profile['memory']['gb_per_s']:.1f}, lm_head's bounds"
    return case, f"{told} {case['linear lm_head']['gb_per_s']:.1f}"


def test_what_falls_short_there() -> None:
    eight, four = lead("weft-int8"), lead("weft-int4-rows8")
    told = f"(`{PAGE}`) 8 and 4 bits have {eight} and {four} times the speed of the best of the others with one stream,"
    us = {name: each["us"] for name, each in saved("step_profile_avx2.json")["cases"]["32 streams"].items()}
    linear = sum(taken for name, taken in us.items() if name.startswith("linear")) / us["whole step"]
    told += (
        f" and 32 streams in bf16 {lead('weft-tp1', 'streams32', 'output')} times that of OpenVINO: of their step the"
    )
    assert f"{told} linear operations, which are multiply-adds of fp32, are {100 * linear:.0f} %." in PERFORMANCE
    assert float(lead("weft-tp1", "http8", "output")) >= 1.8, "what is not told there is as fast as it should be"


def test_what_a_core_reads_and_multiplies() -> None:
    found = saved("core_bound_avx2.json")["gb_per_s"]
    near, alone = found["one core, out of its cache"], found["one core"]
    one, two = found["all cores, on one die"], found["all cores, on two dies"]
    told = (
        f"Plain reads of one core give {alone['plain reads']} GB/s there, of both {one['plain reads']} on one die and"
    )
    told += f" {two['plain reads']} on two; products of a row of 8 bits with codes of 8 bits {one['int8 x 8']} and"
    told += f" {two['int8 x 8']}, of 4 bits {one['int4 x 8']} and {two['int4 x 8']}. Out of its own cache a core"
    told += f" multiplies codes of 8 bits so at {near['int8 x 8']} GB/s, of 4 bits at {near['int4 x 8']}"
    share = alone["plain reads"] / near["int4 x 8"]
    told = f"{told} (`core_bound_avx2.json`): to multiply the latter takes {share:.2f} of the time that a core takes to"
    assert f"{told} read them." in PERFORMANCE


def test_what_is_read_for_a_token() -> None:
    names = [f"decode_bound_avx2_int{bits}.json" for bits in (8, 4)]
    eight, four = (saved(name)["cases"]["decode, one stream"] for name in names)
    shares = [bound_share(name)[0] for name in names]
    told = f"A token reads {eight['weights_mb']:.0f} and {four['weights_mb']:.0f} MB of weights and bounds and takes"
    told += (
        f" {eight['step_ms']:.1f} and {four['step_ms']:.1f} ms, of which reading takes {shares[0]} and {shares[1]} %"
    )
    assert f"{told} at the speed of plain reads beside it (`{names[0]}`, `{names[1]}`)" in PERFORMANCE
    page = rows("Offline", 1, PAGE)
    best = [1000 / 2 / float(page[name,]["decode tok/s"].split()[0]) for name in ("llama.cpp-q8_0", "onnxruntime-int4")]
    assert f"twice the speed of the best of the others would be {best[0]:.1f} and {best[1]:.1f} ms" in PERFORMANCE
    rates = saved("core_bound_avx2.json")["gb_per_s"]
    places = (rates[f"all cores, on {where}"] for where in ("one die", "two dies"))
    products = sorted(four["weights_mb"] / rate["int4 x 8"] for rate in places)
    assert f"products of 4 bits alone are {products[0]:.1f} to {products[1]:.1f} ms at those rates" in PERFORMANCE


def test_where_a_step_of_4_bits_spends_its_time() -> None:
    case, read = read_by_layers("step_profile_avx2_int4")
    told = f"By operations (`step_profile_avx2_int4.md`) the layers' linear ones {read};"
    us = {name: each["us"] for name, each in case.items()}
    around = sum(us[name] for name in AROUND) / 1000
    told += f" attention takes {us['attention'] / 1000:.2f} ms, the scheduler {us['scheduler'] / 1000:.2f}, what lies"
    assert f"{told} around them {around:.2f}" in PERFORMANCE


def test_where_a_step_of_8_bits_reads() -> None:
    _, read = read_by_layers("step_profile_avx2_int8")
    assert f"the layers' linear operations {read} (`step_profile_avx2_int8.md`)" in PERFORMANCE


def test_where_steps_of_16_bits_spend_their_time() -> None:
    name = "decode_bound_avx2_bf16.json"
    found = saved(name)["cases"]["decode, one stream"]
    told = f"a token reads {found['weights_mb']:.0f} MB and takes {found['step_ms']:.1f} ms"
    assert f"{told}, {bound_share(name)[0]} % of it reading (`{name}`)" in PERFORMANCE
    profile = saved("step_profile_avx2.json")
    us = {name: each["us"] for name, each in profile["cases"]["8 streams"].items()}
    linear = sum(taken for name, taken in us.items() if name.startswith("linear"))
    shares = [f"{100 * taken / us['whole step']:.0f}" for taken in (linear, us["attention"])]
    told = (
        "Of a step of 8 streams the linear operations are {} % and attention {} (`step_profile_avx2.md`); the layers'"
    )
    least, most = rates_of_layers(profile, "8 streams")
    told = f"{told.format(*shares)} read {least} to {most} GB/s where memory gave {profile['memory']['gb_per_s']:.1f}"
    assert told in PERFORMANCE


def test_what_two_ranks_can_reach_there() -> None:
    cases = saved("rank_bound_avx2.json")["cases"]
    names = ("step_profile_avx2", "step_profile_avx2_tp2", "comm_latency_avx2", "step_profile_avx2_one_thread")
    of_what = [saved(f"{name}.json") for name in names]
    assert {case: bound(case, *of_what) for case in cases} == cases, "benchmarks/rank_bound.py --save"
    bounds, beside = ([f"{case[key]:.2f}" for case in cases.values()] for key in ("bound", "with_engine"))
    told = "By the bound two ranks could have {}, {}, {} and {} of one rank's speed there, with".format(*bounds)
    told += " the engine's Python {}, {}, {} and {} (`rank_bound_avx2.json`)".format(*beside)
    assert told in PERFORMANCE
    ranks = saved("step_profile_avx2_tp2.json")["cases"]
    found = []
    for case in ("32 streams", "prefill 1024"):
        taken = [ranks[f"{case}, rank {rank}"] for rank in (0, 1)]
        found += [f"{100 * each['all_reduce']['us'] / each['whole step']['us']:.0f}" for each in taken]
    told = (
        "sums, with waiting and what is done for the other rank meanwhile, are {} and {} % of a step of 32 streams and"
    )
    assert f"{told.format(*found[:2])} {found[2]} and {found[3]} % of a prompt's" in PERFORMANCE
    keys = [ranks[f"prefill 1024, rank {rank}"]["linear attention.qkv"]["us"] / 1000 for rank in (0, 1)]
    assert f"spends {keys[0]:.0f} ms on a prompt's queries, keys and values, the other one {keys[1]:.0f}" in PERFORMANCE
    assert "(`step_profile_avx2_tp2.md`)" in PERFORMANCE
