"""Figures of README and docs/performance.md against the results that are saved beside the scripts that measure them."""

from __future__ import annotations

import json
import math
import re

from tests.support.figures import MEASURED, PERFORMANCE, PLAIN, RESULTS, ROOT, gaps, rows, saved


def test_variants_beside_each_other() -> None:
    ratios: dict[str, list[float]] = {"plain": [], "int4": []}
    for record in saved("kernel_variants_xeon.json")["products"]:
        ms = {variant: found["ms"] for variant, found in record["variants"].items()}
        ratios["int4" if record["kind"] == "int4" else "plain"].append(ms["avx512bf16"] / ms["avx512vnni"])
    plain, (one, *more) = ratios["plain"], ratios["int4"]
    assert f"it is {min(plain):.2f} to {max(plain):.2f} times as fast from 1 to 512 rows" in PERFORMANCE
    assert f"a single row is {one:.2f} times as fast" in PERFORMANCE
    assert f"more rows are {min(more):.2f} to {max(more):.2f} times as fast" in PERFORMANCE


def test_gaps_between_tokens() -> None:
    cases = [saved(f"token_gaps_xeon{streams}.json")["cases"] for streams in ("_1", "", "_32")]
    http, engine, products = (
        [case[way]["p99_over_p50"] for case in cases] for way in ("http", "engine", "products alone")
    )
    said = [f"{one:.2f}, {eight:.2f} and {many:.2f} times" for one, eight, many in (http, engine, products)]
    assert "it is {} with 1, 8 and 32 streams over HTTP, {} through the engine alone".format(*said) in PERFORMANCE
    assert f"of the bare products of such a step {said[2]}" in PERFORMANCE
    alone, served = (cases[0][way]["p50_ms"] for way in ("products alone", "http"))
    assert f"take {alone:.1f} ms where a token over HTTP takes {served:.1f}" in PERFORMANCE
    served = {n: found for (engine, n), found in rows("Over HTTP", 2, "peers-xeon.md").items() if engine == "weft-tp1"}
    said = ["{}, {} and {} times".format(*found) for found in (gaps("peers-xeon.md"), (f"{each:.1f}" for each in http))]
    assert "of 1, 8 and 32 streams is {} their median, over more bursts {}".format(*said) in PLAIN
    over_http, alone = (cases[1][way]["longest_ms"] / 1000 for way in ("http", "engine"))
    assert f"the longest gap of 8 was {over_http:.1f} s over HTTP" in PLAIN
    assert f"and {alone:.2f} s through the engine, where they come together" in PLAIN
    first = saved("start_xeon.json")["after_the_command_s"]["ranks: 1"]["first token"]["median"]
    starts = served["1"]["cold s"]
    assert f"first token after {starts} s, with the embedded model after {first:.1f} s (`start_xeon" in PLAIN


def test_first_writes() -> None:
    cases = saved("first_writes_xeon.json")["cases"]
    kinds = ("pages as steps write them", "pages ahead", "single pages as steps write them")
    late, ahead, small = (cases[name]["block begins / others"] for name in kinds)
    assert (
        f"took {late:.2f} times as long as the others, and where pages are asked for ahead {ahead:.2f}" in PERFORMANCE
    )
    assert f"On pages of 4 KiB it would be {small:.2f} times without asking" in PERFORMANCE
    long = saved("first_writes_xeon_8k.json")["cases"]
    single, large = (cases["page_us_after"][f"{kind} pages"] for kind in ("single", "large"))
    other = long["page_us"]["large pages"]
    assert f"takes {single:.1f} us there, 4 KiB of a large one {large:.1f}, in another run {other:.1f}," in PERFORMANCE
    ahead, small = (long[name]["median_ms"] for name in kinds[1:])
    assert f"took {ahead:.1f} ms on large pages that came ahead and {small:.1f} on small ones" in PERFORMANCE


def test_weights_in_codes() -> None:
    cases = saved("coded_weights_xeon.json")["cases"]
    one = cases["decode"]

    def ratios(*kinds: str) -> list[float]:
        return [found[kind]["ratio"] for case, found in cases.items() if case != "decode" for kind in kinds]

    eight, four, rounded = ratios("int8"), ratios("int4"), ratios("int8 x 8", "int4 x 8")
    assert f"8 bits have {min(eight):.2f} to {max(eight):.2f} of its speed," in PERFORMANCE
    assert f"4 bits {min(four):.2f} to {max(four):.2f}; with one stream {one['int8']['ratio']:.2f}" in PERFORMANCE
    assert f"and {one['int4']['ratio']:.2f} (`coded_weights_xeon.json`)" in PERFORMANCE
    assert f"codes as they are: {min(rounded):.2f} to {max(rounded):.2f}." in PERFORMANCE
    told = [
        " and ".join(f"{cases[case][kind]['ratio']:.2f}" for kind in ("int8", "int4"))
        for case in ("prefill of 1,024", "8 streams", "32 streams")
    ]
    assert "they have {} of its speed in a prompt, {} with 8 streams, {} with 32".format(*told) in PLAIN


def test_the_same_bits_in_every_batch() -> None:
    ms: dict[tuple[str, int], float] = {}
    for found in saved("packed_linear.json")["products"]:
        ms[found["kind"], found["rows"]] = found["median_ms"]
    free = [ms["bf16", rows] / ms["onednn", rows] for kind, rows in ms if kind == "onednn"]
    assert f"take {min(free):.2f} to {max(free):.2f} of the time of oneDNN's" in PERFORMANCE
    cases = saved("attention_pieces_xeon.json")["cases"].values()
    longer, whole = ([case["over"][piece] for case in cases] for piece in ("1024", "16384"))
    assert f"it takes {min(longer):.2f} to {max(longer):.2f} of their time" in PERFORMANCE
    assert f"whole context {min(whole):.2f} to {max(whole):.2f}" in PERFORMANCE


def test_the_bound_of_a_step() -> None:
    def of(kind: str) -> tuple[int, dict[str, str], float]:
        found = saved(f"decode_bound_xeon_{kind}.json")
        case = found["cases"]["decode, one stream"]
        return found["rounds"], {key: f"{100 * case[key]:.0f}" for key in case if "share" in key}, case["weights_mb"]

    streams, share, _ = of("bf16")
    quartiles = f"quartiles {share['share_q1']} and {share['share_q3']}"
    assert f"was {share['share']} % of a step ({streams} streams of 256 tokens, {quartiles};" in PERFORMANCE
    parts = [share[f"share_{part}"] for part in ("right_behind_a_look", "then", "at_last")]
    words = "{} % in the eight steps right behind a look at the memory, {} in the next 48, {} in the second half"
    assert words.format(*parts) in PERFORMANCE
    _, share, weights = of("int8")
    words = f"With 8 bits, {weights:.0f} MB, it is {share['share']} %, and {share['share_right_behind_a_look']} right"
    assert words in PERFORMANCE
    profile = saved("step_profile_xeon.json")
    linear = {name: row for name, row in profile["cases"]["1 stream"].items() if name.startswith("linear")}
    rates = [row["gb_per_s"] for row in linear.values()]
    memory, all_of_them = profile["memory"]["gb_per_s"], sum(row["share"] for row in linear.values())
    assert f"read {min(rates):.1f} to {max(rates):.1f} GB/s where the memory gave {memory:.1f}" in PERFORMANCE
    assert f"are {100 * all_of_them:.0f} % of a step" in PERFORMANCE


def test_where_it_falls_short() -> None:
    page = re.search(r"\| weft-tp1 \| \S+ \| bf16 \| [^|]*\((\d+)%\)", (RESULTS / "peers.md").read_text())
    share = saved("decode_bound_xeon_bf16.json")["cases"]["decode, one stream"]["share"]
    alone = saved("step_profile_xeon.json")["cases"]["1 stream"]
    linear = sum(row["share"] for name, row in alone.items() if name.startswith("linear"))
    assert (
        page
        and f"{page[1]} % of its bound in `peers.md`, of older code, and to {100 * share:.0f} % in `decode_bound_xeon"
        in PERFORMANCE
    )
    assert f"are {100 * linear:.0f} % of a step (`step_profile_xeon.md`)" in PERFORMANCE
    assert f"attention is {100 * alone['attention']['share']:.0f} %" in PERFORMANCE

    (alone_one,) = [
        each for each in saved("kernel_variants_xeon.json")["products"] if (each["kind"], each["rows"]) == ("bf16", 1)
    ]
    rate = alone_one["variants"]["avx512vnni"]["weights_gb_s"]
    assert f"they read {rate:.1f} GB/s where plain reads gave {alone_one['read_gb_s']:.1f}" in PERFORMANCE

    def slowest(name: str) -> list[str]:
        served = rows("Over HTTP", 2, name)
        times = [[float(served["weft-tp1", n][f"ITL {p} ms"].split()[0]) for p in ("p50", "p99")] for n in ("8", "32")]
        return [f"{high / low:.1f}" for low, high in times]

    told = ("{} and {} times the median in `peers.md`", "{} and {} in `peers-xeon.md`", "{} and {} in `peers-vnni.md`")
    for words, name in zip(told, ("peers.md", "peers-xeon.md", "peers-vnni.md"), strict=True):
        assert words.format(*slowest(name)) in PERFORMANCE


def test_the_start() -> None:
    served = rows("Over HTTP", 2, "peers-vnni.md")
    weft, theirs = (served[name, "1"]["cold s"] for name in ("weft-tp1", "llama.cpp-bf16"))
    one, two = (saved("start_vnni.json")["after_the_command_s"][f"ranks: {count}"] for count in (1, 2))
    first = one["first token"]
    assert (
        f"`weft serve` has its first token after {weft} s, llama-server after {theirs} s; with the embedded model"
        f" weft's comes after {first['median']:.1f} s, {first['least']:.1f} to {first['most']:.1f} (`start_vnni.json`)"
        in PLAIN
    )
    imports = {name: taken["median"] for name, taken in saved("start_vnni.json")["imports_s"].items()}
    own, loading, ready = (
        imports["import torch and a rank's modules"],
        one["groups"]["median"] - one["load"]["median"],
        one["ready"]["median"] - one["groups"]["median"],
    )
    assert (
        f"of {first['median']:.1f} s until the first token over HTTP a rank spends {own:.1f} on torch and its own"
        f" modules, then {loading:.1f} on loading and {ready:.1f} on its cache and a first step" in PERFORMANCE
    )
    assert f"two take {two['first token']['median']:.1f} s (`start_vnni.json`)" in PERFORMANCE
    there = saved("start_xeon.json")["after_the_command_s"]
    one_there, two_there = (there[f"ranks: {count}"]["first token"]["median"] for count in (1, 2))
    assert f"one rank takes {one_there:.1f} s, two {two_there:.1f} (`start_xeon.json`)" in PERFORMANCE
    left_out = 1 - imports["import torch, as ranks do"] / imports["import torch"]
    assert f"{left_out:.0%}".replace("%", " %") + " of `import torch` there" in PERFORMANCE


def test_where_the_time_of_steps_goes() -> None:
    def shares(rank: int) -> dict[str, float]:
        found = saved("step_profile_vnni_tp2.json")["cases"][f"prefill 1024, rank {rank}"]
        return {name: 100 * row["share"] for name, row in found.items()}

    twice = sum(share for name, share in shares(0).items() if name.startswith(("norm", "add")))
    assert (
        f"spends {shares(0)['all_reduce']:.0f} % in all_reduces, what it waits included, and the other one"
        f" {shares(1)['all_reduce']:.0f} %; norms and residuals, which both compute, take {twice:.0f} %" in PERFORMANCE
    )
    step = saved("step_profile_vnni_int4.json")["cases"]["1 stream"]
    linear = {name: row for name, row in step.items() if name.startswith("linear")}
    read = sum(row["us"] * row["gb_per_s"] for row in linear.values()) / 1e3
    layers = [row["gb_per_s"] for name, row in linear.items() if "head" not in name]
    whole, spent = step["whole step"]["us"], sum(row["us"] for row in linear.values())
    memory = saved("step_profile_vnni_int4.json")["memory"]["gb_per_s"]
    assert f"read {read:.0f} MB a step" in PERFORMANCE
    assert (
        f"spent {spent / whole:.0%} of its time on that, at {min(layers):.0f} to {max(layers):.0f} GB/s in the layers"
        f" and {linear['linear lm_head']['gb_per_s']:.0f} in the head, where the memory gave {memory:.0f}"
        f" (`step_profile_vnni_int4.md`); attention took {step['attention']['share']:.0%}, the scheduler"
        f" {step['scheduler']['share']:.0%}".replace("%", " %")
        in PERFORMANCE
    )
    theirs = float(rows("Offline", 1, "peers-vnni.md")[("onnxruntime-int4",)]["decode tok/s"])
    assert f"{2 * theirs:.0f} tokens a second, {500 / theirs:.1f} ms" in PERFORMANCE
    assert f"which took {(whole - spent) / 1e3:.1f}." in PERFORMANCE
    reading = read / memory
    assert f"{read:.0f} MB at {memory:.0f} GB/s are {reading:.1f} ms, so that twice" in PERFORMANCE
    assert f"leaves {500 / theirs - reading:.1f} ms" in PERFORMANCE


def test_what_stealing_brings() -> None:
    ratios: dict[str, list[float]] = {}
    for name in ("work_stealing_vnni.json", "work_stealing_vnni_int8.json"):
        for title, cases in saved(name)["cases"].items():
            ratios.setdefault(title, []).extend(case["ratio"] for case in cases.values())
    alone, beside = ([f"{pick(found):.2f}" for pick in (min, max)] for found in ratios.values())
    assert (
        f"are {' to '.join(alone)} times as fast with it on a machine that others use too, and {' to '.join(beside)}"
        " times where somebody takes a quarter of one core besides" in PERFORMANCE
    )
    assert {saved(name)["busy_percent"] for name in ("work_stealing_vnni.json", "work_stealing_vnni_int8.json")} == {25}


def test_collectives() -> None:
    (case,) = [
        case
        for case in saved("comm_latency.json")["cases"]
        if (case["kind"], case["ranks"], case["bytes"]) == ("all_reduce", 2, 4096)
    ]
    assert f"takes {case['shared_memory']['p50_us']} us (p50)" in PLAIN
    assert f"through gloo {case['gloo']['p50_us']:.0f} us" in PLAIN


def test_front_end() -> None:
    found = saved("front_end.json")
    ramp, together = found["arrivals"]["ramp"], found["arrivals"]["together"]
    least = min(each["tokens_per_s"] for each in found["arrivals"].values())
    assert f"{found['streams']} streams over HTTP" in PLAIN and f"{least // 100 * 100:,} tokens/s" in PLAIN
    assert f"first token p99 {ramp['ttft_ms']['p99']:.0f} ms" in PLAIN
    assert f"{together['ttft_ms']['p99']:.0f} ms when all connect and ask at the same moment" in PLAIN
    more = saved("front_end_replicas.json")["arrivals"]
    assert all(more[name]["tokens_per_s"] >= each["tokens_per_s"] for name, each in found["arrivals"].items()), (
        "docs/operations.md: four engines give no fewer tokens a second than one"
    )


def test_refusals() -> None:
    assert f"refused within {math.ceil(saved('event_loop.json')['slowest_refusal_ms'])} ms" in PLAIN


def test_long_prompts_and_shared_ones() -> None:
    limited, free = (saved("long_prompt.json")["cases"][f"prefill_stretch {stretch}"] for stretch in (2, 0))
    gaps = [f"{each['itl_p50_while_ms']:,.0f} ms" for each in (limited, free)]
    before = limited["itl_p50_before_ms"]
    assert f"their tokens come {gaps[0]} apart (p50), before it {before:.1f}, without a limit {gaps[1]}" in PLAIN
    operations = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    here = saved("long_prompt_xeon.json")["cases"]["prefill_stretch 2"]
    words = f"{before:.1f} ms become {limited['itl_p50_while_ms']:.0f}; `long_prompt_xeon.json`: "
    words += f"{here['itl_p50_before_ms']:.0f} become {here['itl_p50_while_ms']:.0f})"
    assert words in operations
    shared = saved("shared_prefix.json")["cases"]
    first = [f"{shared[name]['ttft_p50_ms']:,.0f} ms" for name in ("prefix cache", "no prefix cache")]
    assert f"a first token after {first[0]} with the prefix cache, {first[1]} without it" in PLAIN


def test_moving_experts() -> None:
    found = json.dumps(saved("expert_serving.json"))
    (worst,) = re.findall(r'"move": \{[^{}]*"worst / quiet median": ([\d.]+)', found)
    assert f"the worst step takes {worst} times the median step" in PLAIN


def test_clients() -> None:
    clients = saved("clients.json")["clients"]
    words = {6: "Six", 7: "Seven", 8: "Eight", 9: "Nine"}
    kinds = {re.sub(r"-\d+$", "", each["client"]) for each in clients}
    assert all(each["ok"] for each in clients)
    assert f"{words[len(kinds)]} real clients" in PLAIN


def test_the_soak() -> None:
    found = saved("soak.json")
    before, after = (found[when]["rss_mib"][0] for when in ("before", "after"))
    between = [each["rss_mib"][0] for each in found["series"]]
    page = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert (
        f"{before} MiB after the warm-up of a soak of {found['requests']:,} mixed requests, {after} MiB after it"
        in page
    )
    assert f"from {min(between)} to {max(between)} MiB at the minutes between" in page


def test_every_result_that_is_named_is_there() -> None:
    for name in re.findall(r"`([\w-]+\.(?:md|json))`", MEASURED):
        assert (RESULTS / name).is_file(), name
