"""docs/tables.md: the saved results of benchmarks/results as tables, each row with its machine and commit.
`python -m scripts.generated` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.peers.report.summary import Ratio, Row, ratios, rows
from scripts.reference import table
from scripts.roofline import SHAPE
from scripts.saved_results import INDEX, named, short, spread

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tables.md"
MADE_BY = "<!-- made by scripts/results_tables.py; `make docs` writes it -->\n"
CASES = {
    "one stream": "decode",
    "8 streams": "8 streams",
    "32 streams": "32 streams",
    "prompt of 1,024": "prefill of 1,024",
}
"""Title -> case of `several_ranks.py` and `quantization_speed.py`."""
OFFLINE = {
    "one stream": ("decode", "decode"),
    "8 streams": ("streams8", "output"),
    "32 streams": ("streams32", "output"),
    "prompt of 1,024": ("prefill", "prefill"),
}
OURS = ("weft-tp1", "weft-int8", "weft-int8-rows8", "weft-int4", "weft-int4-rows8")
KINDS = {
    "bf16 in 12": "bf16 in 12 bits",
    "int8": "8 bits, full",
    "int4": "4 bits, full",
    "int8 x 8": "8 bits, int8",
    "int4 x 8": "4 bits, int8",
}
"""Case of `quantization_speed.py` -> weights, and the type of activations."""


def peers_offline() -> str:
    """Tokens a second of each engine."""
    head = ("machine", "engine", "version", "weights", *OFFLINE, "memory, MB", "first token, s", "commit")
    return table(head, (cells for machine, commit, row in peers() for cells in offline_row(machine, commit, row)))


def peers() -> Iterator[tuple[str, str, Row]]:
    """Each engine on each machine."""
    for machine, commit, result in named("peers"):
        yield from ((machine, commit, row) for row in rows(result["visits"], SHAPE))


def offline_row(machine: str, commit: str, row: Row) -> Iterator[tuple[str, ...]]:
    """The cells of an engine, if it was measured offline."""
    if not row.figures:
        return
    rates = [short(row.figures[key].median) if key in row.figures else "" for key in OFFLINE.values()]
    peak = short(row.peak["offline"].median / 1e6) if "offline" in row.peak else ""
    cold = f"{row.cold['offline'].median:.1f}" if "offline" in row.cold else ""
    yield machine, row.engine.name, row.version, row.engine.dtype, *rates, peak, cold, commit


def peers_served() -> str:
    """Over HTTP."""
    head = (
        "machine",
        "server",
        "streams",
        "tokens/s",
        "first token, ms",
        "gap, ms",
        "slowest 1 % of gaps, ms",
        "commit",
    )
    found = []
    for machine, commit, row in peers():
        for case in dict.fromkeys(case for case, _ in row.served):
            cells = [short(row.served[case, one].median) for one in ("output", "ttft_p50", "itl_p50", "itl_p99")]
            found.append((machine, row.engine.name, case.removeprefix("http"), *cells, commit))
    return table(head, found)


def over_peers() -> str:
    """weft over the fastest other engine with weights as wide."""
    keys = {**OFFLINE, **{f"HTTP, {streams}": (f"http{streams}", "output") for streams in (1, 8, 32)}}
    found = []
    for machine, commit, result in named("peers"):
        mine: dict[str, dict[tuple[str, str], Ratio]] = {}
        for one in ratios(rows(result["visits"], SHAPE)):
            mine.setdefault(one.ours, {})[one.case, one.quantity] = one
        for engine in OURS:
            cells = [mine.get(engine, {}).get(key) for key in keys.values()]
            found.append((machine, engine, *(f"{one.value:.2f} {one.theirs}" if one else "" for one in cells), commit))
    return table(("machine", "weft", *keys, "commit"), found)


def decode_bound() -> str:
    """One stream beside the memory's bound."""
    head = ("machine", "weights", "MB read", "GB/s", "bound, ms", "step, ms", "bound / step", "commit")
    found = []
    for weights in ("bf16", "int4"):
        for machine, commit, result in named(f"decode-bound-{weights}"):
            case = result["cases"]["decode, one stream"]
            cells = [short(case[name]) for name in ("weights_mb", "gb_per_s", "bound_ms", "step_ms")]
            found.append((machine, weights, *cells, spread(case, "share"), commit))
    return table(head, found)


def quantization_speed() -> str:
    """Fewer bits beside whole bf16."""
    found = []
    for machine, commit, result in named("quantization-speed"):
        for kind, title in KINDS.items():
            cases = [result["cases"].get(case, {}).get(kind) for case in CASES.values()]
            found.append((machine, title, *(spread(case) if case else "" for case in cases), commit))
    return table(("machine", "weights, activations", *CASES, "commit"), found)


def several_ranks() -> str:
    """Two ranks beside one."""
    found = []
    for machine, commit, result in named("several-ranks"):
        cases = [result["cases"][case]["several"] for case in CASES.values()]
        found.append((machine, *map(spread, cases), commit))
    return table(("machine", *CASES, "commit"), found)


def perplexity() -> str:
    """Quality of quantized weights."""
    head = ("weights", "MB", "perplexity", "over unquantized", "machine", "commit")
    found = []
    for machine, commit, result in named("quantization"):
        for kind, one in result["results"].items():
            cells = (short(one["weights_mb"]), f"{one['perplexity']:.2f}", f"{one['perplexity_ratio']:.3f}")
            found.append((kind, *cells, machine, commit))
    return table(head, found)


def device() -> str:
    """Decode on a GPU."""
    head = ("machine", "model, mode", "streams", "step, ms", "tokens/s", "commit")
    found = []
    for machine, commit, result in named("device-decode"):
        for case, figures in result["cases"].items():
            for streams, one in figures.items():
                if isinstance(one, dict):
                    cells = (short(one["step_ms"]), short(one["tokens_per_s"]))
                    found.append((machine, case, streams.removesuffix(" streams"), *cells, commit))
    return table(head, found)


def server() -> str:
    """Single figures of the server."""
    return table(("what", "figure", "machine", "commit"), server_rows())


def server_rows() -> Iterator[tuple[str, str, str, str]]:
    """What is measured, its figure, machine and commit."""
    for what in ("front-end", "front-end-replicas"):
        for machine, commit, result in named(what):
            rate = short(result["arrivals"]["connected"]["tokens_per_s"])
            engines = result["replicas"]
            yield f"512 streams over HTTP, {engines} engine(s) that cost nothing, tokens/s", rate, machine, commit
    for machine, commit, result in named("long-prompt"):
        for case, one in result["cases"].items():
            gap = f"{short(one['itl_p50_before_ms'])} before, {short(one['itl_p50_while_ms'])} while"
            yield f"gap of 8 streams beside a prompt of 8,000 tokens, `{case}`, ms", gap, machine, commit
    for machine, commit, result in named("shared-prefix"):
        for case, one in result["cases"].items():
            yield f"first token of chats with one beginning, {case}, ms", short(one["ttft_p50_ms"]), machine, commit
    for machine, commit, result in named("start"):
        for ranks, phases in result["after_the_command_s"].items():
            yield f"first token after the command, {ranks}, s", short(phases["first token"]["median"]), machine, commit
    for machine, commit, result in named("scheduler-cost"):
        for case in result["cases"]:
            what = f"Python's time of a step, {case['running']:,} running requests of {case['context']:,} tokens, us"
            yield what, short(case["decode_step_us_median"]), machine, commit
    for machine, commit, result in named("structured-output"):
        for case, one in result["cases"].items():
            if "step_p50_ms" in one:
                yield f"step of {case}, ms", short(one["step_p50_ms"]), machine, commit
            elif isinstance(one, dict):
                for kind, figure in one.items():
                    yield f"{case}, {kind}", short(figure), machine, commit
    for machine, commit, result in named("soak"):
        memory = f"{result['before']['rss_mib'][0]} before, {result['after']['rss_mib'][0]} after"
        yield f"memory of the server in {result['requests']:,} requests, MiB", memory, machine, commit


def several_hosts() -> str:
    """Single figures of two hosts, and of a scheduler of many groups."""
    return table(("what", "figure", "machine", "commit"), hosts_rows())


def hosts_rows() -> Iterator[tuple[str, str, str, str]]:
    """What is measured, its figure, machine and commit."""
    for machine, commit, result in named("hosts"):
        rates = result["tokens_per_s"]
        for way in ("offline", "http"):
            for case in rates[way]:
                both = f"{short(case['two_hosts'])} and {short(case['one_host'])}"
                yield f"tokens/s of two hosts and of one, {way}, {case['streams']} stream(s)", both, machine, commit
        for case in result["collectives"]["cases"]:
            what = f"{case['kind']} of {case['bytes']:,} bytes between two hosts, median, us"
            yield what, short(case["tcp"]["p50_us"]), machine, commit
        head = result["head"]
        groups = f"{head['groups']} groups of {head['running']} requests"
        yield f"scheduler's host, {groups}, ms a step", short(head["head_step_ms"]), machine, commit
        yield f"a rank's part of a step, {groups}, bytes", f"{head['frame_of_a_rank_bytes']:,}", machine, commit
        for fault, case in result["faults"]["faults"].items():
            times = f"{short(case['named_longest_s'])} and {short(case['ready_longest_s'])}"
            yield f"{case['times']} times {fault}: longest until named and until ready, s", times, machine, commit


def shared_contexts() -> str:
    """Decode by ranks that share the KV cache of a request by position."""
    found = []
    for machine, commit, result in named("shared-contexts"):
        lengths = [f"{length:,} tokens" for length in result["contexts"]]
        for case, one in result["cases"].items():
            cells = [short(one[length]["tokens_per_s"]) for length in lengths]
            prompt = short(one[lengths[-1]]["first_token_s"])
            fits, hits = f"{one['tokens_per_gib']:,}", f"{one['hit_rate']:.2f}"
            found.append((case, *cells, prompt, fits, hits, machine, commit))
    rates = ("tokens/s at 8,000", "at 16,000", "first token after 8,000 more, s")
    return table(("model, ranks", *rates, "tokens in a GiB", "hit rate", "machine", "commit"), found)


TABLED = (
    "comm-latency", "decode-bound", "device-decode", "front-end", "hosts", "long-prompt", "peers", "quantization",
    "scheduler-cost", "several-ranks", "shared-contexts", "shared-prefix", "soak", "start",
)  # fmt: skip
"""Beginnings of the names of results that have a table of their own."""


def others() -> str:
    """Results that have no table yet."""
    rows = [
        (f"`{name}`", entry["what"], entry["machine"], f"`{entry['commit'][:9]}`")
        for name, entry in INDEX.items()
        if name.endswith(".json") and not name.startswith(TABLED)
    ]
    return table(("file", "what it holds", "machine", "commit"), rows)


SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "One stream and the memory's bound": (
        "The bound is the bytes of weights, keys and values over the bandwidth measured beside the step.",
        decode_bound,
    ),
    "weft over the fastest other engine": (
        "Rates of weft over those of the fastest other engine with weights of as many bits, which the cell names."
        " `rows8` has int8 activations.",
        over_peers,
    ),
    "Beside other engines": (
        "Medians, in tokens a second. `tp1` is one rank of two threads, `tp2` is two ranks of one thread. `whole` is"
        " bf16 in 16 bits, `rows8` has int8 activations. Memory is the peak of all processes.",
        peers_offline,
    ),
    "Beside other servers": ("Medians over HTTP, with prompts of 128 tokens and answers of 128.", peers_served),
    "Fewer bits a weight": (
        "Speed over that of whole bf16: median [first quartile, third quartile].",
        quantization_speed,
    ),
    "Quality of quantized weights": ("Perplexity of the embedded model on the manual of Python.", perplexity),
    "Two ranks beside one": (
        "Speed of two ranks of one thread over that of one rank of two threads: median [quartiles].",
        several_ranks,
    ),
    "Decode on a GPU": ("One rank, prompts of 128 tokens.", device),
    "Several hosts": (
        "Hosts of one core each. Faults happen under load, on a busy machine.",
        several_hosts,
    ),
    "Long contexts": (
        "One stream, by two ranks of one thread, of random models in bf16. A GiB of each rank's KV cache has so many"
        " tokens of a context. The hit rate is of 20 to 600 ids that requests have in common.",
        shared_contexts,
    ),
    "The server": ("Single figures; medians.", server),
    "Other results": ("Files whose figures are on the pages that name them.", others),
}
"""Heading -> what its table shows, and the table."""


def page() -> str:
    """The whole page."""
    head = "Each row names its machine ([measured.md](measured.md)) and the commit of weft that was measured."
    note = (
        "The files are in `benchmarks/results/`. All but the GPU's and those of long contexts are of the embedded model"
    )
    note += " on two cores."
    parts: Iterable[str] = (f"## {title}\n\n{words}\n\n{make()}" for title, (words, make) in SECTIONS.items())
    return "\n".join([f"{MADE_BY}# Tables of results\n\n{head}\n{note}\n", *parts])
