"""Figures of the machine with fewer products of bf16, in docs, against what is saved."""

from __future__ import annotations

import re
from statistics import median

import pytest
import torch

from benchmarks.peers.probe import FAR_US
from tests.support.figures import (
    BURSTS,
    MAIN,
    PERFORMANCE,
    PLAIN,
    RESULTS,
    bound_share,
    leads,
    looks,
    ratios,
    rows,
    saved,
    shares,
    shares_of_rate,
)
from tests.support.native_libraries import need
from weft.native.records import WeightKind
from weft.native.step_library import Pool, open_library
from weft.ops.packed import Packing
from weft.program.screen import made

PAGE, PROMPTS = "peers-zen4.md", "peers-zen4-prompt.md"
ONE, CASES = ("decode", "decode"), (("streams8", "output"), ("streams32", "output"))


def test_the_machine() -> None:
    memory = [look["gb_per_s"] for look in looks(PAGE)]
    words = f"whose memory gave {min(memory):.0f} GB/s at one moment and {max(memory):.0f} at another"
    assert f"{words}, {median(memory):.0f} in the median" in PLAIN
    assert f"memory that gave {min(memory):.0f} to {max(memory):.0f} GB/s from moment to moment" in PERFORMANCE
    here, there = (re.findall(r"(\d+) GFLOP/s", (RESULTS / page).read_text())[0] for page in (PAGE, MAIN))
    assert f"({here} GFLOP/s on both cores, there {int(there):,})" in PLAIN


def test_leads_and_bounds() -> None:
    found = leads(PAGE)
    decode, prompt, eight, many = shares("weft-tp1", PAGE)[:4]
    llama, vino = (found["weft-tp1", case, case] for case in ("decode", "prefill"))
    assert f"a prompt has {vino} times the speed of OpenVINO, at {prompt} %;" in PERFORMANCE
    streams = " and ".join(found["weft-tp1", *case] for case in CASES)
    assert f"{streams} times with 8 and 32 streams, at {eight} and {many} %." in PERFORMANCE
    assert f"One stream has {llama} times the speed of llama.cpp, at {decode} % of the bound of 16 bits" in PERFORMANCE
    with8, with4 = (found[f"weft-{kind}-rows8", *ONE] for kind in ("int8", "int4"))
    share = shares("weft-int4-rows8", PAGE)[0]
    assert (
        f"one stream has {with8} times the speed of the best of the others with 8 bits and {with4} times with 4,"
        in (PERFORMANCE)
    )
    assert f"at {share} %." in PERFORMANCE
    offline = rows("Offline", 1, PAGE)
    here, there = (float(offline[name,]["decode tok/s"]) for name in ("weft-int4-rows8", "llama.cpp-q4_0"))
    told = f"a token takes {1e3 / here:.2f} ms there, twice the speed of llama.cpp would be {5e2 / there:.2f}."
    bound = saved("decode_bound_zen4_int4.json")["cases"]["decode, one stream"]
    read = (
        f"{bound['weights_mb']:.0f} MB of weights and bounds besides keys and values, is {100 * bound['share']:.0f} %"
    )
    assert told in PERFORMANCE and read in PERFORMANCE


def test_one_stream_of_codes_alone() -> None:
    page, engines = "peers-zen4-codes.md", ("weft-int8-rows8", "weft-int4-rows8")
    found = [leads(page)[engine, *ONE] for engine in engines]
    of_bound = [shares(engine, page)[0] for engine in engines]
    both, near = (" and ".join(map(str, each)) for each in (found, of_bound))
    told = f"Ten rounds of one stream alone have {both} times (`{page}`), at {near} % of the bound of their bytes."
    assert told in PERFORMANCE
    assert f"Ten rounds of one stream alone have {both} with 8 and 4 bits, at {near} % of the bound" in PLAIN
    assert f"{both} on zen4 (`{page}`)" in PLAIN


def test_two_ranks() -> None:
    found = leads(PAGE)
    one, eight, many, prompt = (found["weft-tp2", *case] for case in (ONE, *CASES, ("prefill", "prefill")))
    assert (
        f"beside one have {one} of its speed with one stream, {eight} and {many} with 8 and 32, {prompt} in a" in PLAIN
    )
    offline = (RESULTS / PAGE).read_text()
    alone, both = (re.findall(rf"\| {name} .* fast (\d+)/(\d+) \|", offline)[0] for name in ("weft-tp1", "weft-tp2"))
    assert f"figures {both[0]} of {both[1]} found it fast, beside one rank's {alone[0]};" in PLAIN


def test_how_near_one_stream_comes_to_the_bound() -> None:
    share, low, high = bound_share("decode_bound_zen4_bf16.json")
    assert f"On the machine of `peers-zen4.md` it is {share} % of the bytes that are read there" in PERFORMANCE
    assert f"`peers-zen4.md` it is {share} % (quartiles {low} and {high}; `decode_bound_zen4_bf16.json`)" in PERFORMANCE
    share, low, high = bound_share("decode_bound_zen4_int4.json")
    assert f"with 4 bits {share} % (quartiles {low} and {high}; `decode_bound_zen4_int4.json`)" in PERFORMANCE
    bf16, int4, found = (
        saved(f"decode_bound_zen4_{kind}.json")["cases"]["decode, one stream"] for kind in ("bf16", "int4", "whole")
    )
    steps, bounds = ([f"{each[key]:.1f}" for each in (bf16, int4)] for key in ("step_ms", "bound_ms"))
    told = f"steps took {' and '.join(steps)} ms, and at the memory's speed beside them their bytes"
    assert f"{told} {' and '.join(bounds)}." in PERFORMANCE
    gave = [f"{each['gb_per_s']:.0f}" for each in (bf16, int4, found)]
    assert "The memory gave {}, {} and {} GB/s beside them in the median".format(*gave) in PERFORMANCE
    whole_, low, high = bound_share("decode_bound_zen4_whole.json")
    words = f"In whole numbers it is {whole_} % (quartiles {low} and {high}; `decode_bound_zen4_whole.json`)"
    assert words in PERFORMANCE
    assert f"those of 12 bits, and {whole_} % of whole numbers." in PERFORMANCE
    profile = saved("step_profile_zen4.json")
    one = profile["cases"]["1 stream"]
    layers = [row["gb_per_s"] for name, row in one.items() if name.startswith("linear") and "head" not in name]
    assert (
        f"Where the memory gave {profile['memory']['gb_per_s']:.1f} GB/s, by operations (`step_profile_zen4.md`), the"
        f" linear ones of the layers read {min(layers):.1f} to {max(layers):.1f}, lm_head's bounds"
        f" {one['linear lm_head']['gb_per_s']:.1f};" in PERFORMANCE
    )


def test_what_bounds_of_logits_bring() -> None:
    found = saved("beside_716b59a_zen4.json")["cases"]
    one, eight, many, most, late, prompt = (
        f"{found[case]['this one']['ratio']:.2f}"
        for case in ("decode", "8 streams", "32 streams", "64 streams", "decode behind 8,000", "prefill of 1,024")
    )
    told = f"one stream is {one} times as fast, 8 and 32 streams {eight} and {many}, 64 {most}, one behind a prompt"
    assert f"{told} of 8,000 tokens {late} times (`beside_716b59a_zen4.json`, 12 rounds)" in PERFORMANCE
    assert f"which prompts hardly feel ({prompt})." in PERFORMANCE


def test_what_it_brings_to_ask_for_codes_in_time() -> None:
    both = (ratios(f"beside_30fffee_zen4_{kind}.json") for kind in ("int8", "int4"))
    one, eight, many, prompt = (" and ".join(pair) for pair in zip(*both, strict=True))
    assert f"one stream is {one} times as fast, 8 streams {eight}, 32 {many}, a prompt {prompt} (" in PERFORMANCE
    one, eight, many, prompt = ratios("beside_30fffee_zen4.json")
    assert f"with bf16 {one}, {eight}, {many} and {prompt} (`beside_30fffee_zen4.json`" in PERFORMANCE


def test_what_shorter_scales_bring_and_norms_by_each_thread_do_not() -> None:
    one, eight, many, prompt = ratios("beside_e74684d_zen4_int4.json")
    told = f"one stream is {one} times as fast as before, 8 and 32 streams {eight} and {many}, a prompt {prompt}"
    assert f"{told} (`beside_e74684d_zen4_int4.json`, 16 rounds)" in PERFORMANCE
    each = [saved(f"beside_c86d721_zen4{kind}.json")["cases"]["decode"]["this one"] for kind in ("", "_int4", "_int8")]
    bf16, int4, int8 = (f"{found['ratio']:.2f}" for found in each)
    assert f"one stream has {bf16}, {int4} and {int8} of the speed in bf16, 4 and 8 bits (" in PERFORMANCE


def test_what_lines_asked_for_in_time_bring() -> None:
    one, eight, many, prompt = ratios("beside_e9cfcf3_zen4.json")
    told = f"one stream is {one} times as fast, 8 and 32 streams {eight} and {many}, a prompt {prompt}"
    assert f"{told} (`beside_e9cfcf3_zen4.json`, 40 rounds)" in PERFORMANCE
    one, eight, many = ratios("beside_5ac355b_zen4.json", cases=BURSTS[:3])
    told = (
        f"brought nothing: {one}, {eight} and {many} with one stream, 8 and 32 (`beside_5ac355b_zen4.json`, of commit"
    )
    assert told in PERFORMANCE
    one, eight, many, _ = ratios("beside_e9cfcf3_zen4_whole.json")
    assert f"whole numbers {one}, {eight} and {many} (`beside_e9cfcf3_zen4_whole.json`" in PERFORMANCE


def test_what_finishing_a_block_behind_its_products_brings() -> None:
    prompts = ("prefill of 1,024", "32 prompts of 128")
    long, short = ratios("beside_0be547c_zen4.json", cases=prompts)
    long8, short8 = ratios("beside_0be547c_zen4_int8.json", cases=prompts)
    told = (
        f"a prompt of 1,024 was {long} times as fast as beside a commit before all of these and 32 of 128 were {short}"
        f" times, {long8} and {short8} with 8 bits;"
    )
    assert told in PERFORMANCE
    one, eight, many = ratios("beside_0be547c_zen4.json", cases=BURSTS[:3])
    found = saved("beside_0be547c_zen4.json")["cases"]["decode"]["this one"]
    told = (
        f"one stream {one} (quartiles {found['ratio_q1']:.2f} and {found['ratio_q3']:.2f}), 8 and 32 {eight} and {many}"
    )
    assert f"{told} (`beside_0be547c_zen4.json`, 40 rounds, `beside_0be547c_zen4_int8.json`, 30)" in PERFORMANCE


def test_what_one_core_and_both_take_from_memory() -> None:
    found, before = (saved(f"core_bound{of}_zen4.json")["gb_per_s"] for of in ("", "_099cc5c"))
    both, apart_, one, near = (
        found[place]
        for place in ("all cores, on one die", "all cores, on two dies", "one core", "one core, out of its cache")
    )
    twelve, plain = "bf16 in 12", "plain reads"
    told = (
        f"read {both['bf16']} GB/s of whole numbers in a row's products, {both[twelve]} of 12 bits, where plain reads"
        f" gave {both[plain]}; on two dies {apart_['bf16']} and {apart_[twelve]} where these gave {apart_[plain]}; one"
        f" core alone {one['bf16']} and {one[twelve]}, and out of its cache {near['bf16']} and {near[twelve]}"
    )
    rounds = f"{one['rounds']} rounds, {both['rounds']} and {apart_['rounds']} of them on one die and on two"
    assert f"{told} (`core_bound_zen4.json`, {rounds})" in PERFORMANCE
    told = f"{apart_['bf16']} GB/s of whole numbers and {apart_['int8 x 8']} of codes where plain reads gave"
    then = before["all cores, on two dies"]
    then_ = f"before {then['bf16']} and {then['int8 x 8']} of {then[plain]} (`core_bound_099cc5c_zen4.json`)"
    assert f"{told} {apart_[plain]} (`core_bound_zen4.json`), {then_}" in PERFORMANCE
    apart: dict[bool, list[float]] = {True: [], False: []}
    for look in looks(PAGE):
        apart[look["flag_us"] > FAR_US].append(look["gb_per_s"])
    told = f"{median(apart[True]):.0f} GB/s in the median of {len(apart[True])} looks beside `peers-zen4.md`,"
    assert f"{told} {median(apart[False]):.0f} in that of the other {len(apart[False])}." in PERFORMANCE


def test_lines_that_are_asked_for_soon() -> None:
    names = [f"beside_099cc5c_zen4_{kind}.json" for kind in ("whole", "int8")]
    whole_, coded = (saved(name)["cases"]["decode"]["this one"] for name in names)
    told = f"{whole_['ratio']:.2f} times as fast with whole numbers and {coded['ratio']:.2f} with codes"
    quartiles = [f"{found[key]:.2f}" for found in (whole_, coded) for key in ("ratio_q1", "ratio_q3")]
    words = "no more than such figures can tell (quartiles {} and {}, {} and {};".format(*quartiles)
    assert f"{told}, {words} `{names[0]}`, `{names[1]}`, 4 starts of 10 rounds)" in PERFORMANCE
    flags = [flag for name in names for flag in saved(name)["memory"]["flag_us"]]
    assert max(flags) < FAR_US, "the cores sat on one die"


def test_what_a_prompts_products_have_of_the_machines_rate() -> None:
    prompt, near = shares_of_rate("product_bound_zen4.json")
    told = f"have {prompt[0]} of that rate with whole numbers and {prompt[1]} with 12 bits"
    words = f"about as much out of each core's own cache, {near[0]} and {near[1]} (`product_bound_zen4.json`)"
    assert f"{told}, and {words}" in PERFORMANCE


def test_what_bounds_of_logits_read() -> None:
    need("step")
    library = open_library()
    assert library is not None
    if not library.weft_suits_screen():
        pytest.skip("weft multiplies no bytes in this CPU's vectors")
    pool = Pool(library, 1)
    weight = Packing(pool).pack(torch.randn(2048, 576).bfloat16(), WeightKind.BF12)
    screen = made(weight, 0, 32, pool)
    pool.close()
    assert screen is not None and weight.kind == WeightKind.BF12
    few, many = (f"{screen.bytes_read(count) / weight.data.nbytes:.2f}" for count in (1, 32))
    assert f"products of bytes read {few} of what numbers of 12 bits take, {many} with more rows" in PERFORMANCE


def test_bf16_in_12_bits() -> None:
    one, eight, many, prompt = ratios("coded_weights_zen4.json", "bf16 in 12")
    words = (
        f"has {one} of their speed with one stream, {eight} with 8, {many} with 32 and {prompt} in a prompt of 1,024"
    )
    assert words in PERFORMANCE


def test_what_awaiting_all_threads_brings() -> None:
    saved_starts = saved("beside_36768ef_zen4.json")
    found = {case: each["this one"] for case, each in saved_starts["cases"].items()}
    prompt, one = found["prefill of 1,024"], found["decode"]
    told = f"brings a prompt {prompt['ratio']:.2f} ({prompt['ratio_q1']:.2f} and {prompt['ratio_q3']:.2f}), 32 of 128"
    assert f"{told} {found['32 prompts of 128']['ratio']:.2f}; one stream, which has neither, has" in PERFORMANCE
    assert f"has {one['ratio']:.2f} and 32 {found['32 streams']['ratio']:.2f} (`beside_36768ef" in PERFORMANCE
    assert (saved_starts["starts"], saved_starts["rounds"]) == (10, 4)
    spread = [f"{of(each['ratio_of_starts']):.2f}" for each in (prompt, one) for of in (min, max)]
    assert "a start's four rounds is {} to {} in prompts, {} to {} with one stream".format(*spread) in PERFORMANCE


def test_8_and_4_bits_beside_bf16() -> None:
    def two(*kinds: str) -> list[str]:
        each = (ratios("coded_weights_zen4.json", kind) for kind in kinds)
        return [" and ".join(pair) for pair in zip(*each, strict=True)]

    one, eight, many, prompt = two("int8 x 8", "int4 x 8")
    told = f"{one} of the speed of bf16 in whole numbers with one stream, {eight} with 8, {many} with 32, {prompt}"
    full = two("int8", "int4")
    assert f"32 streams have less than bf16's speed with 8 and 4 bits, {full[2]}, on that of" in PERFORMANCE
    assert all(float(ratio) >= 1 for ratio in full[1].split(" and "))
    assert all(float(ratio) >= 1 for pair in (one, eight, many, prompt) for ratio in pair.split(" and "))
    assert (
        f"have {told} in a prompt; with `--activations full` {', '.join(full)} (`coded_weights_zen4.json`)"
        in PERFORMANCE
    )


def test_a_files_own_blocks_beside_bf16() -> None:
    each = (ratios("coded_blocks_zen4.json", way) for way in ("gguf", "gguf x 8"))
    plain, rounded = map("{0[0]}, {0[1]}, {0[2]} and {0[3]}".format, each)
    told = f"own blocks of Q4_1 have {plain} of the speed of the same file's numbers in bf16 there,"
    looks = saved("coded_blocks_zen4.json")["memory"]["flag_us"]
    fast = f"memory was fast in {sum(us > FAR_US for us in looks)} of {len(looks)} looks beside them"
    assert f"{told} with `--activations int8` {rounded} (`coded_blocks_zen4.json`; {fast})" in PLAIN


def test_numbers_in_12_and_in_16_bits_beside_other_engines() -> None:
    found = leads(PAGE)
    of_limit = [shares(engine, PAGE)[0] for engine in ("weft-tp1", "weft-whole")]
    decode, prompt, eight, many = (
        [found[engine, *case] for engine in ("weft-tp1", "weft-whole")]
        for case in (ONE, ("prefill", "prefill"), *CASES)
    )
    assert f"one stream is {decode[0]} times as fast as llama.cpp, {of_limit[0]} % of what memory allows" in PERFORMANCE
    assert f"with whole numbers {decode[1]} times and {of_limit[1]} %;" in PERFORMANCE
    told = f"8 and 32 streams are {eight[0]} and {many[0]} times as fast as OpenVINO, with whole numbers {eight[1]} and"
    assert f"{told} {many[1]}; a prompt {prompt[0]} and {prompt[1]} times." in PERFORMANCE
    told = f"one stream has {decode[1]} times the speed of llama.cpp on zen4, 8 and 32 streams {eight[1]} and {many[1]}"
    assert f"{told} times OpenVINO's, a prompt {prompt[1]} times (" in PLAIN


def test_an_earlier_run_and_32_streams_alone() -> None:
    def of(page: str) -> str:
        found = leads(page)
        first = [found["weft-tp1", *case] for case in (ONE, ("prefill", "prefill"), *CASES)]
        return "{}, {}, {}, {}, {} and {}".format(
            *first, *(found[f"weft-{kind}-rows8", *ONE] for kind in ("int8", "int4"))
        )

    earlier = "peers-zen4-again.md"
    served = [leads(earlier)["weft-tp1", f"http{streams}", "output"] for streams in (1, 8, 32)]
    assert f"this run has {of(PAGE)}, one of older code and three to six rounds {of(earlier)} (`peers" in PLAIN
    assert "again.md`, over HTTP {}, {} and {} with 1, 8 and 32 streams)".format(*served) in PLAIN
    ours, whole_ = (leads("peers-zen4-streams.md")[engine, *CASES[1]] for engine in ("weft-tp1", "weft-whole"))
    told = f"Eight rounds of 32 streams alone have {ours}, with whole numbers {whole_} (`peers-zen4-streams.md`)"
    assert told in PLAIN


def test_beside_the_code_of_earlier_runs() -> None:
    before, coded = map(ratios, ("beside_21fb15a_zen4.json", "beside_becc474_zen4_int4.json"))
    told = "{} times as fast with one stream, {} and {} with 8 and 32, {} in a prompt (`beside_21fb15a_zen4.json`"
    assert told.format(*before) in PLAIN
    assert "older code, {}, {}, {} and {} (`beside_becc474_zen4_int4.json`)".format(*coded) in PLAIN


def test_weights_that_are_fetched_by_who_waits() -> None:
    now, coded = map(ratios, ("beside_8e1360c_zen4.json", "beside_8e1360c_zen4_int4.json"))
    told = "one stream is {} times as fast as before, 8 and 32 streams {} and {}, a prompt {} (`beside_8e1360c_zen4"
    assert told.format(*now) in PERFORMANCE
    assert "with 4 bits {}, {}, {} and {} (`beside_8e1360c_zen4_int4.json`)".format(*coded) in PERFORMANCE
    low, high = (ratios("beside_8e1360c_zen4.json", cases=BURSTS[:1], key=f"ratio_q{end}")[0] for end in (1, 3))
    assert f"; quartiles {low} and {high} with one stream)" in PERFORMANCE


def test_rows_of_routed_experts() -> None:
    def of(first: str, *others: str) -> list[float]:
        ms = [{way: each[way]["median_ms"] for way in (first, *others)} for each in products]
        return [each[first] / min(each[way] for way in others) for each in ms]

    products = saved("grouped_experts.json")["products"]
    loop, torch_ = of("packed grouped", "packed loop"), of("packed grouped", "torch loop", "torch grouped")
    told = f"takes {min(loop):.2f} to {max(loop):.2f} of the time of the same kernel slot by slot, from 1 to 512 rows,"
    assert f"{told} and {min(torch_):.2f} to {max(torch_):.2f} of the faster of torch's two ways" in PERFORMANCE


def test_12_bits_where_products_are_of_fp32() -> None:
    one, eight, many, prompt = ratios("coded_weights_zen4_avx512vnni.json", "bf16 in 12")
    told = f"one stream then has {one}, 8 {eight} and 32 {many}, a prompt {prompt}"
    without = "{}, {}, {} and {}".format(*ratios("coded_weights_zen4_avx512.json", "bf16 in 12"))
    assert f"{told} (`coded_weights_zen4_avx512vnni.json`; with `avx512` {without}, `coded_" in PERFORMANCE


def test_products_out_of_12_bits() -> None:
    found = saved("compressed_weights_zen4.json")
    pairs, fp32 = (
        {each["rows"]: each["ratio"] for each in found["products"][variant]} for variant in ("avx512bf16", "avx512vnni")
    )
    many = [ratio for count, ratio in pairs.items() if count >= 12]
    told = f"take {pairs[1]:.2f} of the time with one row, {pairs[8]:.2f} with 8 and {min(many):.2f} to {max(many):.2f}"
    assert f"{told} with 12 to 512 (`compressed_weights_zen4.json`)." in PERFORMANCE
    some = [fp32[count] for count in fp32 if 8 <= count <= 32]
    assert f"where 8 to 32 rows take {min(some):.2f} to {max(some):.2f} of the time (products of fp32" in PERFORMANCE
    each = median(counts[1] for name, counts in found["far"].items() if name.startswith("model."))
    normal, tails = (f"{found['far'][kind][1]:.2f}" for kind in ("normal", "Student's t, 3"))
    assert f"of normal numbers {normal} a group, of such with long tails" in PERFORMANCE
    assert f"three degrees of freedom) {tails}, of a matrix half of whose numbers" in PERFORMANCE
    zeros = "half of them 0, the others normal, deviation"
    words = f"with a deviation of 0.02, {found['far'][f'{zeros} 0.02'][1]:.2f}, of a matrix of the embedded model"
    assert words in PERFORMANCE
    assert found["far"][f"{zeros} 1.0"] is None
    assert "with a deviation of 1 a matrix half of zeros stays whole" in PERFORMANCE
    assert f"were 4-bit once, {each:.2f} in the median" in PERFORMANCE


def test_at_what_rates_prompts_multiply() -> None:
    linear, attention = [], []
    for name in ("", "_xeon", "_zen4"):
        profile = saved(f"step_profile{name}.json")
        us = {each: found["us"] for each, found in profile["cases"]["prefill 1024"].items()}
        took = sum(us[each] for each in us if each.startswith("linear ") and each != "linear lm_head")
        rate = profile["memory"]["gflop_per_s"] * 1e3
        linear.append(2 * 576 * (30 * 960 * 1024 + (576 + 3 * 1536) * (29 * 1024 + 1)) / rate / took)
        attention.append(30 * 9 * (1024 * 1025 / 2) * 4 * 64 / rate / us["attention"])
    told = "run at {:.2f} to {:.2f} of the rate that the machine gives bf16 products, its attention at {:.2f} to {:.2f}"
    assert told.format(min(linear), max(linear), min(attention), max(attention)) in PERFORMANCE


def test_where_a_step_of_4_bits_spends_its_time() -> None:
    us = {name: each["us"] for name, each in saved("step_profile_zen4_int4.json")["cases"]["1 stream"].items()}
    linear = sum(us[name] for name in us if name.startswith("linear"))
    shares_ = (100 * each / us["whole step"] for each in (linear, us["attention"], us["scheduler"]))
    told = "the linear ones are {:.0f} % of a step, attention {:.0f}, the scheduler {:.0f}."
    assert told.format(*shares_) in PERFORMANCE
    head = saved("step_profile_zen4_int4.json")["cases"]["1 stream"]["linear lm_head"]
    assert f"read {head['us'] * head['gb_per_s'] / 1e3:.0f} MB for the head's 28.)" in PERFORMANCE


def test_where_steps_that_products_bound_spend_their_time() -> None:
    """Products: of the embedded model's 30 layers, the last of which goes on with sampled rows only; logits are
    bounded by other ones."""
    profile = saved("step_profile_zen4.json")
    found = []
    for case, rows_, sampled in (("prefill 1024", 1024, 1), ("32 streams", 32, 32)):
        us = {name: each["us"] for name, each in profile["cases"][case].items()}
        linear, whole_step = sum(us[name] for name in us if name.startswith("linear")), us["whole step"]
        numbers = 30 * 960 * rows_ + (576 + 3 * 1536) * (29 * rows_ + sampled)
        full, of_layers = 2 * 576 * numbers / profile["memory"]["gflop_per_s"] / 1e3, linear - us["linear lm_head"]
        shares_ = (linear / whole_step, full / of_layers, us["attention"] / whole_step)
        found.append(([round(100 * share) for share in shares_], f"{1 + (full - of_layers) / whole_step:.2f}"))
    (prompt, left), (many, left_many) = found
    assert (
        "the linear ones are {} % of a prompt's step there and multiply at {} % of the machine's rate in the layers,"
        " attention is {} %;".format(*prompt)
        in PERFORMANCE
    )
    assert "a step of 32 streams the linear ones are {} %, at {} %, attention {} %.".format(*many) in PERFORMANCE
    assert f"would leave {left} of the prompt's time and {left_many} of the step's." in PERFORMANCE
    products = 30 * 9 * (1024 * 1025 / 2) * 4 * 64 / profile["memory"]["gflop_per_s"] / 1e6
    attention = profile["cases"]["prefill 1024"]["attention"]["us"] / 1e3
    assert f"own products would take {products:.0f} ms of its {attention:.0f} at that rate." in PERFORMANCE


def test_prompts_alone_in_ten_rounds() -> None:
    ours, whole_ = (leads(PROMPTS)[engine, "prefill", "prefill"] for engine in ("weft-tp1", "weft-whole"))
    told = f"ten of a prompt alone have {ours} times the speed of OpenVINO, {whole_} with whole numbers (`{PROMPTS}`)"
    assert told in PERFORMANCE
    assert f"Ten rounds of a prompt alone have {ours}, with whole numbers {whole_} (`{PROMPTS}`)" in PLAIN
    assert f"a prompt {ours} times OpenVINO's on zen4, with whole numbers {whole_} (`{PROMPTS}`)" in PLAIN


def test_what_finishing_beside_the_next_products_brings() -> None:
    found = saved("beside_796ba66_zen4.json")["cases"]
    (long, long_), (short, short_), (one, one_), (eight, _), (many, _) = (
        (f"{each['ratio']:.2f}", f"{each['ratio_q1']:.2f} and {each['ratio_q3']:.2f}")
        for each in (found[case]["this one"] for case in ("prefill of 1,024", "32 prompts of 128", *BURSTS[:3]))
    )
    told = f"brings a prompt {long} together (quartiles {long_}), 32 of 128 {short} ({short_}), one stream {one}"
    assert (
        f"{told} ({one_}), 8 and 32 {eight} and {many} (`beside_796ba66_zen4.json`, 5 starts of 6 rounds)"
        in PERFORMANCE
    )
