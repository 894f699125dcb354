"""Figures of what changes brought where there are tile registers, in docs, against saved results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.support.figures import BURSTS, PERFORMANCE, PLAIN, RESULTS, SERVING, ratios, saved, shares_of_rate

BESIDE, BESIDE_64 = (f"beside_89f64a8_amx{which}.json" for which in ("", "_64"))
LOOKED_UP = "beside_c24f8c6_amx_int4.json"
CODED = "coded_weights_amx.json"
BLOCKS = "beside_b53a380_amx.json"
ALL = (*BURSTS, "32 prompts of 128")
CASE = ("decode",)


def starts(name: str) -> str:
    found = saved(name)
    return f"{found['starts']} starts of {found['rounds']}"


def quartiles(name: str, cases: Sequence[str] = ALL) -> list[str]:
    low, high = (ratios(name, cases=cases, key=key) for key in ("ratio_q1", "ratio_q3"))
    return [" and ".join(pair) for pair in zip(low, high, strict=True)]


def test_what_larger_chunks_of_rows_bring() -> None:
    names = [f"beside_3ad4ba9_amx_{kind}.json" for kind in ("none", "int8", "int4")]
    bf16, int8, int4 = (" and ".join(ratios(name, cases=("prefill of 1,024", "32 prompts of 128"))) for name in names)
    told = f"a prompt of 1,024 and 32 of 128 are {bf16} times as fast in bf16, {int8} with 8 bits, {int4} with 4"
    files = ", ".join(f"`{name}`" for name in names)
    cases = [each["this one"] for name in names for each in saved(name)["cases"].values()]
    low, high = min(case["ratio_q1"] for case in cases), max(case["ratio_q3"] for case in cases)
    spread = f"with quartiles from {low:.2f} to {high:.2f}"
    assert f"{told} ({files}, {starts(names[0])} rounds, {spread})" in PERFORMANCE


def test_what_codes_laid_beside_products_bring() -> None:
    one, eight, many, prompt, short = ratios(BESIDE, cases=ALL)
    one_, _, _, prompt_, short_ = quartiles(BESIDE)
    told = f"one stream has {one} of its speed (quartiles {one_}), 8 and 32 {eight}"
    told = f"{told} and {many}, a prompt of 1,024 {prompt} ({prompt_}), 32 of 128 {short} ({short_}; `{BESIDE}`,"
    assert f"{told} {starts(BESIDE)} rounds), 64 streams" in PERFORMANCE
    more, low, high = (ratios(BESIDE_64, cases=["64 streams"], key=key)[0] for key in ("ratio", "ratio_q1", "ratio_q3"))
    told = f"64 streams {more} ({low} and {high}; `{BESIDE_64}`,"
    assert f"{told} {starts(BESIDE_64)})." in PERFORMANCE


def test_what_blocks_of_32_tokens_bring() -> None:
    found = saved("step_attention_amx.json")["results"]
    cases = ("decode, 1 stream of 4096", "decode, 1 stream of 8192", "decode, 32 streams of 256", "prefill of 1024")
    one, longer, many, prompt = (f"{found[case]['block 32']['attention']['beside the first']:.2f}" for case in cases)
    told = f"4,096 and 8,192 keys takes {one} and {longer} of the time, of 32 over 256 {many}, of a prompt of 1,024 "
    assert f"{told}{prompt} (`step_attention_amx.json`" in PERFORMANCE
    one, some, many, prompt = ratios(BLOCKS)
    behind, few = ratios(BLOCKS, cases=["decode behind 8,000", "8 streams behind 2,000"])
    told = (
        f"one stream behind 8,000 tokens has {behind} of its speed, 8 behind 2,000 {few}, a prompt of 1,024 {prompt}, "
    )
    assert f"{told}1, 8 and 32 streams {one}, {some} and {many} (`{BLOCKS}`, {starts(BLOCKS)} rounds)" in PERFORMANCE


def test_what_looking_4_bits_up_brings() -> None:
    cases = (*BURSTS, "64 streams", "32 prompts of 128")
    one, eight, many, prompt, more, short = ratios(LOOKED_UP, cases=cases)
    one_, _, _, prompt_, more_, short_ = quartiles(LOOKED_UP, cases)
    told = f"one stream is {one} times as fast (quartiles {one_}), 8, 32 and 64 {eight}, {many} and {more} ({more_}),"
    last = f"a prompt of 1,024 {prompt} ({prompt_}) and 32 of 128 {short} ({short_}; `{LOOKED_UP}`,"
    assert f"{told} {last} {starts(LOOKED_UP)} rounds)." in PERFORMANCE


def test_what_two_halves_bring() -> None:
    name, cases = "beside_503a526_amx_int4_64.json", ["64 streams"]
    told = f"64 streams are {ratios(name, cases=cases)[0]} times as fast as with a panel"
    assert f"{told} (quartiles {quartiles(name, cases)[0]}; `{name}`, {starts(name)} rounds)" in PERFORMANCE


def listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def test_what_groups_laid_and_records_fetched_ahead_bring() -> None:
    one, two, few = (f"beside_1f98018_amx{which}.json" for which in ("", "_tp2", "_int4"))
    told = f"one rank is {listed(ratios(one))} times as fast with 1, 8 and 32 streams and in a prompt (quartiles"
    told += f" {listed(quartiles(one, BURSTS))}; `{one}`, {starts(one)} rounds), two ranks of a thread each"
    told += f" {listed(ratios(two))} ({listed(quartiles(two, BURSTS))}; `{two}`), one stream of 4 bits that is read"
    assert f"{told} token by token {ratios(few, cases=CASE)[0]} ({quartiles(few, CASE)[0]}; `{few}`)." in PERFORMANCE
    one, two = (f"beside_1f98018_zen5{which}.json" for which in ("", "_tp2"))
    told = f"one rank is {listed(ratios(one))} times as fast beside that commit (quartiles"
    told += f" {listed(quartiles(one, BURSTS))}; `{one}`, {starts(one)} rounds), two ranks {listed(ratios(two))}"
    assert f"{told} ({listed(quartiles(two, BURSTS))}; `{two}`)." in PERFORMANCE
    name, cases = "beside_e690189_zen5_tp2.json", ("decode", "8 streams", "prefill of 1,024")
    told = "without that two ranks are {}, {} and {} times as fast with 1 and 8 streams and in a prompt"
    assert f"{told.format(*ratios(name, cases=cases))} (`{name}`, {starts(name)} rounds)." in PERFORMANCE
    one, two = (f"beside_3141ad3_zen5{which}.json" for which in ("", "_tp2"))
    told = f"without these one rank is {listed(ratios(one))} times as fast with 1, 8 and 32 streams and in a prompt"
    told += f" (quartiles {listed(quartiles(one, BURSTS))}; `{one}`, {starts(one)} rounds), two ranks"
    assert f"{told} {listed(ratios(two))} ({listed(quartiles(two, BURSTS))}; `{two}`)." in PERFORMANCE


def test_what_every_second_pair_for_each_thread_brings() -> None:
    name, cases = "beside_9617c54_zen5.json", ("decode", "8 streams")
    told = "one rank is {} and {} times as fast with one stream and 8 as in the commit before (quartiles {} and {};"
    told = told.format(*ratios(name, cases=cases), *quartiles(name, cases))
    assert f"{told} `{name}`, {starts(name)} rounds)." in PERFORMANCE


def test_what_several_steps_by_one_plan_bring() -> None:
    for words, which in (
        ("they decode {} times as fast (quartiles {}; `{}`, 12 bursts of each in turns)", "_tp2"),
        ("which plans ahead otherwise, {} ({}; `{}`), with 4 bits", ""),
        ("with 4 bits {} ({}; `{}`). Beside", "_int4"),
    ):
        name = f"several_steps_amx{which}.json"
        found, each = saved(name)["cases"].values(), "{:.2f} and {:.2f}".format
        spread = ", ".join(each(case["ratio_q1"], case["ratio_q3"]) for case in found)
        assert words.format(listed([f"{case['ratio']:.2f}" for case in found]), spread, name) in PERFORMANCE
    cases, before = ("decode", "8 streams", "32 streams"), "beside_34fb4e8_amx{}.json".format
    one, two, few = (listed(ratios(before(which), cases=cases)) for which in ("", "_tp2", "_int4"))
    told = f"one rank is {one} times as fast (`{before('')}`, {starts(before(''))} rounds), two are {two}"
    assert f"{told} (`{before('_tp2')}`), and with 4 bits {few} (`{before('_int4')}`)." in PERFORMANCE


def test_what_memory_that_ranks_share_brings() -> None:
    assert shared_memory_told() in PERFORMANCE


def shared_memory_told() -> str:
    two, alone = (f"beside_5b7a727_amx{which}.json" for which in ("_tp2", ""))
    one, eight, many, prompt, short = ratios(two, cases=ALL)
    *_, prompt_, short_ = quartiles(two)
    told = f"two ranks of a thread each are {prompt} times as fast in a prompt of 1,024 as in the commit before"
    told += f" (quartiles {prompt_}), {short} with 32 prompts of 128 ({short_}), {one}, {eight} and {many} with 1, 8"
    told += f" and 32 streams (`{two}`, {starts(two)} rounds); one rank of two threads, which has chunks of rows of one"
    one, eight, many, prompt, short = ratios(alone, cases=ALL)
    *_, prompt_, short_ = quartiles(alone)
    told += f" size since then, {prompt} and {short} in these prompts ({prompt_}, {short_}), {one}, {eight} and {many}"
    told += f" with such streams (`{alone}`, {starts(alone)} rounds). Shared memory has no large pages by itself there:"
    pages = saved("shared_pages_amx.json")["cases"]
    single, large = (f"{pages[f'room, {kind} pages']['ratio']:.2f}" for kind in ("single", "large"))
    told += f" on single ones it is read at {single} of the rate of a process's own large pages, on those of 2 MiB that"
    return f"{told} ranks ask for at {large} (`shared_pages_amx.json`)."


def test_what_two_ranks_wait_for() -> None:
    found = saved("several_steps_amx_tp2.json")["cases"].values()
    alone, several = (listed([f"{case[way]['between_ms']:.2f}" for case in found]) for way in ("one by one", "several"))
    told = f"between two steps for {alone} ms with 1, 8 and 32 streams where each is planned by itself, and for"
    assert f"{told} {several} ms a step where several are" in PERFORMANCE
    one, eight, many = (
        ("{:.2f} and {:.2f}".format(*case["several"]["waits_ms"]), f"{case['several']['step_ms']:.1f}")
        for case in found
    )
    told = f"{one[0]} of a step's {one[1]} ms with one stream, {eight[0]} of {eight[1]} with 8, {many[0]} of {many[1]}"
    assert f"{told} with 32 (`several_steps_amx_tp2.json`)." in PERFORMANCE
    profile = saved("step_profile_amx_tp2.json")["cases"]
    (more, less), (long, short) = (
        [f"{100 * profile[f'{case}, rank {rank}']['all_reduce']['share']:.0f}" for rank in (1, 0)]
        for case in ("32 streams", "prefill 1024")
    )
    told = (
        f"is in sums for {more} % of a step of 32 streams and {long} % of a prompt there, the other one for {less} and"
    )
    assert f"{told} {short} % (`step_profile_amx_tp2.md`)." in PERFORMANCE


def test_what_a_step_of_4_bits_reads() -> None:
    page = (RESULTS / "step_profile_amx_int4.md").read_text()
    one = page.split("## 1 stream")[1].split("\n## ")[0]
    layers = re.findall(r"\| linear (?!lm_head)\S+ \| \d+ \| \d+ \| ([\d.]+)% \| ([\d.]+) \|", one)
    share, rates = sum(float(each) for each, _ in layers), [float(rate) for _, rate in layers]
    memory = float(re.findall(r"- gb_per_s: ([\d.]+)", page)[0])
    told = (
        f"the layers' products are {share:.0f} % of a step of one stream, at {min(rates):.0f} to {max(rates):.0f} GB/s"
    )
    assert f"{told} where the memory gave {memory:.0f}" in PERFORMANCE


def test_what_a_prompts_products_have_of_the_registers_rate() -> None:
    prompt, near = shares_of_rate("product_bound_amx.json")
    told = f"have {prompt[0]} of what registers multiply by themselves with whole numbers and {prompt[1]} with 12 bits"
    words = f"out of each core's second-level cache {near[0]} and {near[1]} (`product_bound_amx.json`)"
    assert f"{told}, and {words}" in PERFORMANCE


def test_products_out_of_12_bits_in_tile_registers() -> None:
    found = {each["rows"]: each["ratio"] for each in saved("compressed_weights_amx.json")["products"]["amx"]}
    few = [found[count] for count in found if count <= 32]
    told = f"In tile registers they take {min(few):.2f} to {max(few):.2f} of it with 1 to 32 rows"
    more = f"{found[64]:.2f} with 64, {found[128]:.2f} with 128 and {found[512]:.2f} with 512"
    assert f"{told}, {more} (`compressed_weights_amx.json`)." in PERFORMANCE


def test_12_8_and_4_bits_beside_whole_numbers() -> None:
    *whole, prompt = ratios(CODED, "bf16 in 12")
    assert f"in tile registers (`{CODED}`) {', '.join(whole)} and {prompt}." in PERFORMANCE
    assert f"burst by burst 12 bits have {prompt} of a prompt's speed" in PLAIN
    one, eight, many, prompts = (
        " and ".join(pair) for pair in zip(*(ratios(CODED, f"{kind} x 8") for kind in ("int8", "int4")), strict=True)
    )
    told = f"have {one} with one stream, {eight} with 8, but {many} with 32 and {prompts} in a prompt;"
    full = zip(*(ratios(CODED, kind) for kind in ("int8", "int4")), strict=True)
    pairs = ", ".join(" and ".join(pair) for pair in full)
    assert f"{told} with `--activations full`, as by themselves, in the same order {pairs} (`{CODED}`)." in SERVING
    many, prompt, short = (
        " and ".join(ratios(CODED, kind, [case])[0] for kind in ("int8", "int4"))
        for case in ("32 streams", "prefill of 1,024", "8 prompts of 128")
    )
    told = f"32 streams have {many}, a prompt {prompt}, 8 prompts of 128 {short} of the speed of whole numbers, and 12"
    few = "{}, {} and {}".format(*ratios(CODED, "bf16 in 12", ("32 streams", "prefill of 1,024", "8 prompts of 128")))
    assert f"vectors lay beside them: {told} bits, as they are by themselves, {few} (`{CODED}`)." in PERFORMANCE


def test_what_pages_further_ahead_bring() -> None:
    before, now = names = [f"token_gaps_amx_32{which}.json" for which in ("_51e4885", "")]
    http, engine = (
        [f"{saved(name)['cases'][way]['p99_over_p50']:.2f}" for name in names] for way in ("http", "engine")
    )
    begun = 32 * 32 * 2 * 30 * 3 * 64 * 2 / (1 << 20)  # of keys and values, layers, heads and dims, two bytes each
    assert f"as many streams of the embedded model begin {begun:.1f} MiB in one step" in PERFORMANCE
    told = f"of 32 streams over HTTP was {http[0]} times the median on the machine of `peers-amx.md`, and is {http[1]}"
    assert f"{told} times, through the engine alone {engine[0]} and {engine[1]} (`{before}`, `{now}`)" in PERFORMANCE


def test_what_one_stream_of_two_ranks_waits_for() -> None:
    cases = saved("step_profile_amx_tp2.json")["cases"]
    more, less = ({name: each["us"] for name, each in cases[f"1 stream, rank {rank}"].items()} for rank in (0, 1))
    told = f"{more['linear attention.qkv']:.0f} us on queries, keys and values, the other one"
    told += f" {less['linear attention.qkv']:.0f}, and is in sums for {more['all_reduce']:.0f} and"
    told += f" {less['all_reduce']:.0f} of a step's {more['whole step']:.0f} us"
    assert f"With one stream the rank with six of the nine heads spends {told} there" in PERFORMANCE
