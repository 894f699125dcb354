"""The report as text for a terminal: what every rank holds, its bytes, and what moves between the modules."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from weft.base.plural import counted
from weft.parallel.layout.boundaries import KEYS
from weft.parallel.layout.layout import Layout
from weft.tools.explain.hops import TransferTraffic
from weft.tools.explain.picture import picture
from weft.tools.explain.report import LayoutReport
from weft.tools.explain.traffic import CollectiveCall, PromptTraffic, RoutedTraffic, Traffic
from weft.tools.explain.units import binary, count, storage_words

GROUPS_SHOWN = 3
RANKS_SHOWN = 4


def print_report(report: LayoutReport, console: Console) -> None:
    """Prints the whole report; plain text where the console has no colours."""
    console.print(_model_line(report), soft_wrap=True)
    console.print(_world_line(report.layout), soft_wrap=True)
    console.print()
    for line in picture(report, console.width):
        line.rstrip()
        console.print(line, soft_wrap=True)
    console.print()
    for line in (*_boundaries(report), *_totals(report)):
        console.print(line, soft_wrap=True)
    if report.cores is not None:
        console.print()
        console.print(Text("cores of this machine", "bold"))
        for each in report.cores.lines:
            console.print(Text(f"  {each}"), soft_wrap=True)
    if report.notes:
        console.print()
    for note in report.notes:
        style = "yellow" if note.level == "warning" else "dim"
        console.print(Text(f"{'! ' if note.level == 'warning' else '  '}{note.message}", style), soft_wrap=True)


def _model_line(report: LayoutReport) -> Text:
    config = report.config
    tied = ", tied" if config.tie_embeddings else ""
    facts = (
        f"{config.family}, {config.num_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_heads} heads / {config.num_kv_heads} KV heads of {config.head_dim}, "
        f"intermediate {config.intermediate_size}, vocabulary {config.vocab_size}{tied}, "
        f"{report.dtype}{storage_words(report.storage, report.config.quantization)}"
    )
    return Text.assemble((report.model, "bold"), f"  {facts}")


def _world_line(layout: Layout) -> Text:
    attention = layout.attention
    factors = (
        ("attention tp", attention.tp, "attention.tp"),
        ("cp", attention.cp, "attention.cp"),
        ("dp", attention.dp, "attention.dp"),
        ("stages", layout.pipeline.stages, "pipeline.stages"),
        ("replicas", layout.replicas, "replicas"),
    )
    product = " x ".join(f"{name} {size}{'·' if field in layout.derived else ''}" for name, size, field in factors)
    split = f", kv_split {attention.kv_split}" if attention.kv_split > 1 else ""
    nodes = f" on {layout.nodes} nodes" if layout.nodes > 1 else ""
    return Text.assemble((f"world {layout.world}", "bold"), f" = {product}{nodes}{split}    · derived, not given")


def _boundaries(report: LayoutReport) -> Iterator[Text]:
    """Aligned columns; never cut, a narrow terminal wraps the lines."""
    titles = ("boundary", "times", "from -> to", "collective", "ranks")
    rows = [(*titles, *(f"bytes at {batch}" for batch in report.batches))]
    quiet = [False]
    for passed in report.traffic:
        added = list(_rows(passed, len(report.batches)))
        rows += added
        quiet += [not passed.calls] * len(added)
    for hop in report.hops:
        most = (count(received.most) for received in hop.received)
        places = f"stage {hop.hop.sender} -> {hop.hop.receiver}"
        rows.append((hop.hop.name, "1", places, "send, receive", f"each to its like{_nodes(hop)}", *most))
        ends = f"{hop.hop.held} -> {hop.hop.whole}"
        rows += [("", "", ends, *_cells(call)) for call in hop.gathers]
        quiet += [False] * (1 + len(hop.gathers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (
            f"{cell:>{width}}" if place in (1, *range(5, len(row))) else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield Text("  ".join(cells), "bold" if number == 0 else "dim" if quiet[number] else "")


def _rows(passed: Traffic, batches: int) -> Iterator[tuple[str, ...]]:
    head = (passed.name, str(passed.times), " -> ".join(passed.ends))
    if not passed.calls:
        yield (*head, "nothing moves", "", *["0"] * batches)
    for call in passed.calls:
        yield (*head, *_cells(call))
        head = ("", "", "")
    if isinstance(passed, RoutedTraffic):
        yield (*head, "  at most", "", *(count(received.most) for received in passed.most))


def _cells(call: CollectiveCall) -> tuple[str, ...]:
    name = "slice (local)" if call.kind == "slice" else call.kind
    return name, _groups(call), *(count(received.most) for received in call.received)


def _nodes(hop: TransferTraffic) -> str:
    shown = ", ".join(f"{sender} -> {receiver}" for sender, receiver in hop.nodes[:GROUPS_SHOWN])
    more = f" and {len(hop.nodes) - GROUPS_SHOWN} more" if len(hop.nodes) > GROUPS_SHOWN else ""
    return f", node {shown}{more}" if shown else ""


def _groups(call: CollectiveCall) -> str:
    shown = " ".join(_group(group) for group in call.groups[:GROUPS_SHOWN])
    more = len(call.groups) - GROUPS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _group(group: tuple[int, ...]) -> str:
    if len(group) <= RANKS_SHOWN:
        return "{" + " ".join(map(str, group)) + "}"
    stride = group[1] - group[0]
    return "{" + f"{group[0]} {group[1]} .. {group[-1]}" + "}" + (f" by {stride}" if stride > 1 else "")


def _prompt(prompt: PromptTraffic) -> Iterator[Text]:
    """How prompts reach the keys of other owners: the form, and bytes of either in a layer."""
    most = {passed.name: passed.calls[0].received[0].most for passed in prompt.exchanges}
    keys = most.pop(KEYS)
    queries = " + ".join(f"{name} {binary(nbytes)}" for name, nbytes in most.items())
    yield Text.assemble(
        (f"a prompt's first {count(prompt.rows)} rows", "bold"),
        f": a layer gathers keys and values of all owners, {KEYS} {binary(keys)} to the busiest rank, or exchanges"
        f" {queries}; same results",
    )
    longest = f"with contexts up to {count(prompt.longest)} tokens, else queries and partial outputs"
    yield Text(f"  fewer bytes decide: so many rows of a prompt gather keys {longest}")


def _totals(report: LayoutReport) -> Iterator[Text]:
    yield Text("bytes at N: received in one call by the rank that receives most, N rows in every dp group", "dim")
    if report.routed:
        yield Text(
            "experts.dispatch and experts.combine: where rows choose all slots alike, and the most there can be", "dim"
        )
    for batch in report.batches:
        received = report.received_per_step(batch)
        rows = f"{counted(batch, 'row')} per dp group"
        most, together = max(received), binary(sum(received))
        text = f": {count(most)} bytes ({binary(most)}) to the busiest rank, {together} to all"
        yield Text.assemble((f"a decode step of {rows}", "bold"), text)
        if largest := report.received_for_largest(batch):
            together = binary(sum(largest))
            text = f"{count(max(largest))} bytes ({binary(max(largest))}) to the busiest rank, {together} to all"
            yield Text(f"  with greedy decoding in every row: at most {text}")
    if report.prompt is not None:
        yield from _prompt(report.prompt)
