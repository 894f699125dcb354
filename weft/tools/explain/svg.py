"""The picture of a layout as SVG: ranks as columns of stacked memory, modules as rows of blocks, boundaries as rows,
with an arrow where something moves.

Neighbouring ranks that hold the same bytes are folded into one column. Plain SVG, no script, no font file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

from weft.parallel.layout.ranks import describe
from weft.tools.explain.memory import RankMemoryUse, modules_of
from weft.tools.explain.report import LayoutReport
from weft.tools.explain.traffic import CollectiveCall, RoutedTraffic, Traffic
from weft.tools.explain.units import binary

MOST_COLUMNS = 16
COLUMN, GAP, LEFT, BAR, ROW, STEP = 92, 10, 150, 200, 24, 42
COLOURS = {
    "embedding": "#4e79a7",
    "attention": "#f28e2b",
    "o_proj": "#e15759",
    "dense": "#76b7b2",
    "router": "#bab0ac",
    "experts": "#59a14f",
    "shared_experts": "#8cd17d",
    "norm": "#79706e",
    "lm_head": "#b07aa1",
}
LEGEND = (
    ("FULL(n)", "each rank of a block of n holds the block's rows, whole; FULL(1): each rank holds only its own rows"),
    ("SHARD(n)", "each rank of a block of n holds some columns of all its rows"),
    ("PARTIAL(n)", "each rank of a block of n holds an addend of all its rows; their sum is the value"),
)
"""The placements of rows between modules, as they are written."""
STYLE = (
    "text{font:12px sans-serif;fill:#222}.s{font-size:10px;fill:#555}.i{font-size:10px;fill:#000}"
    ".b{font-weight:bold}.t{font-size:16px;"
    "font-weight:bold}.l{stroke:#999}.a{stroke:#444;fill:none;marker-end:url(#arrow)}"
)
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>'
)


@dataclass(frozen=True, slots=True)
class Column:
    """Neighbouring ranks that look alike; `first` stands for them."""

    first: RankMemoryUse
    count: int

    @property
    def title(self) -> str:
        """'rank 3' or 'ranks 0-7'."""
        lo = self.first.rank
        return f"rank {lo}" if self.count == 1 else f"ranks {lo}-{lo + self.count - 1}"


def to_svg(report: LayoutReport) -> str:
    """The whole picture."""
    columns = fold(report)
    width = max(LEFT + len(columns) * (COLUMN + GAP) + 30, 940)
    body, height = _body(report, columns)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"<title>{escape(report.model)}: {report.layout.world} ranks</title><style>{STYLE}</style>{ARROW}"
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    )
    return head + "\n".join(body) + "\n</svg>\n"


def fold(report: LayoutReport) -> tuple[Column, ...]:
    """Every rank a column while there are few; else neighbours that hold the same bytes and KV are one."""
    if len(report.ranks) <= MOST_COLUMNS:
        return tuple(Column(rank, 1) for rank in report.ranks)
    found = []
    for _, alike in groupby(report.ranks, key=lambda rank: (rank.bytes, rank.kv_bytes_per_token)):
        ranks = list(alike)
        found.append(Column(ranks[0], len(ranks)))
    return _limited(found, report) if len(found) > MOST_COLUMNS else tuple(found)


def _limited(found: Sequence[Column], report: LayoutReport) -> tuple[Column, ...]:
    """The first columns, and one for all others, whose first rank stands for them."""
    kept = found[: MOST_COLUMNS - 1]
    rest = found[MOST_COLUMNS - 1].first
    return (*kept, Column(rest, len(report.ranks) - rest.rank))


def _body(report: LayoutReport, columns: Sequence[Column]) -> tuple[list[str], int]:
    lines = [_text(16, 26, f"{report.model}  {report.layout.world} ranks, {report.dtype}", "t")]
    lines += _memory(report, columns, 60)
    top = 60 + 34 + BAR + 66
    lines += _blocks(report, columns, top)
    top += ROW * len(_sizes(report)) + 40
    lines += [*_flow(report, top), *_hops(report, top)]
    top += 20 + STEP * (len(report.traffic) + len(report.hops)) + 14
    for place, (name, meaning) in enumerate(LEGEND):
        lines += [_text(16, top + 18 * place, name, "b"), _text(LEFT - 40, top + 18 * place, meaning)]
    return lines, top + 18 * len(LEGEND) + 6


def _memory(report: LayoutReport, columns: Sequence[Column], top: int) -> Iterator[str]:
    """Stacked bars, one scale for all; the largest fills the height."""
    most = max(column.first.total for column in columns) or 1
    yield _text(16, top + 10, "weights a rank", "b")
    for place, module in enumerate(modules_of(report.config)):
        y = top + 40 + 18 * place
        yield f'<rect x="16" y="{y - 10}" width="12" height="12" fill="{COLOURS[module]}"/>'
        yield _text(34, y, module)
    for place, column in enumerate(columns):
        yield from _bar(report, column, LEFT + place * (COLUMN + GAP), top, most)


def _bar(report: LayoutReport, column: Column, x: int, top: int, most: int) -> Iterator[str]:
    where = describe(report.layout, column.first.rank).partition(" (")[2].rstrip(")") if column.count == 1 else ""
    yield _text(x, top + 10, column.title, "b")
    yield _text(x, top + 24, where if column.count == 1 else f"{column.count} alike", "s")
    y = float(top + 34 + BAR)
    for module in reversed(modules_of(report.config)):
        nbytes = column.first.bytes[module]
        height = BAR * nbytes / most
        y -= height
        hint = f"{module}: {binary(nbytes)}"
        box = f'<rect x="{x}" y="{y:.1f}" width="{COLUMN}" height="{height:.1f}" fill="{COLOURS[module]}"'
        yield f"{box}><title>{escape(hint)}</title></rect>"
        if height >= 13:
            yield _text(x + 4, y + height / 2 + 4, binary(nbytes), "i")
    bottom = top + 34 + BAR
    yield _text(x, bottom + 14, binary(column.first.total), "b")
    yield _text(x, bottom + 27, f"KV {binary(column.first.kv_bytes_per_token)}/token", "s")


def _blocks(report: LayoutReport, columns: Sequence[Column], top: int) -> Iterator[str]:
    """One row for each module: a block of ranks with it is one bar; folded columns show how many blocks they hold."""
    yield _text(16, top - 8, "ranks that share one copy", "b")
    for place, (module, size) in enumerate(_sizes(report).items()):
        y = top + ROW * place
        yield _text(16, y + 15, f"{module} {size}")
        for block, members in groupby(enumerate(columns), key=lambda item: item[1].first.rank // size):
            spots = list(members)
            if not _held(report, module, spots[0][1]):
                continue
            x, count = LEFT + spots[0][0] * (COLUMN + GAP), len(spots)
            ranks = sum(column.count for _, column in spots)
            label = f"{ranks // size} blocks of {size}" if ranks > size else f"block {block}"
            width = count * (COLUMN + GAP) - GAP
            yield f'<rect x="{x}" y="{y + 2}" width="{width}" height="{ROW - 5}" rx="4" fill="{COLOURS[module]}"/>'
            yield _text(x + 6, y + 15, label)


def _sizes(report: LayoutReport) -> dict[str, int]:
    """The sizes of the modules that the model has."""
    held = modules_of(report.config)
    return {module: size for module, size in report.layout.sizes.items() if module in held}


def _held(report: LayoutReport, module: str, column: Column) -> bool:
    """Whether the ranks of a column have any of a module: stages have their own."""
    return column.first.bytes[module] > 0 or module == "lm_head" and report.tied_view


def _flow(report: LayoutReport, top: int) -> Iterator[str]:
    """The boundaries of a step as arrows from placement to placement, with collective, group and bytes."""
    batch = report.batches[-1]
    yield _text(16, top, f"between modules, one decode step of {batch} rows in every dp group", "b")
    for place, passed in enumerate(report.traffic):
        y = top + 22 + STEP * place
        module = passed.name.partition(".")[0]
        yield f'<rect x="16" y="{y}" width="6" height="{STEP - 12}" fill="{COLOURS.get(module, "#999")}"/>'
        yield _text(30, y + 13, passed.name, "b")
        yield _text(30, y + 27, "once a step" if passed.times == 1 else f"{passed.times} times a step", "s")
        yield _text(LEFT + 10, y + 18, passed.ends[0])
        moves = any(call.kind != "slice" for call in passed.calls)
        if moves:
            yield f'<path class="a" d="M{LEFT + 100} {y + 14}H{LEFT + 520}"/>'
        yield _text(LEFT + 535, y + 18, passed.ends[1])
        for line, text in enumerate(_call_texts(passed)):
            yield _text(LEFT + 108, y + (9 if moves else 18) + 16 * line, text, "s")


def _hops(report: LayoutReport, top: int) -> Iterator[str]:
    """The hops between stages, as the boundaries are drawn."""
    for place, passed in enumerate(report.hops, len(report.traffic)):
        y, hop = top + 22 + STEP * place, passed.hop
        yield f'<rect x="16" y="{y}" width="6" height="{STEP - 12}" fill="#999"/>'
        yield _text(30, y + 13, hop.name, "b")
        yield _text(30, y + 27, "once a step", "s")
        yield _text(LEFT + 10, y + 18, f"stage {hop.sender}")
        yield f'<path class="a" d="M{LEFT + 100} {y + 14}H{LEFT + 520}"/>'
        yield _text(LEFT + 535, y + 18, f"stage {hop.receiver}")
        yield _text(LEFT + 108, y + 9, f"each rank to its like: {binary(passed.received[-1].most)}", "s")
        for call in passed.gathers[:1]:
            yield _text(LEFT + 108, y + 25, f"then {_call_text(call)}", "s")


def _call_texts(passed: Traffic) -> list[str]:
    """At most two lines: above and below the arrow."""
    if not passed.calls:
        return ["nothing moves"]
    if isinstance(passed, RoutedTraffic):
        return [f"{_call_text(passed.calls[0])} with even choices", f"at most {binary(passed.most[-1].most)}"]
    return [_call_text(call) for call in passed.calls[:2]]


def _call_text(call: CollectiveCall) -> str:
    if call.kind == "slice":
        return "each rank takes its part: nothing moves"
    group = " ".join(map(str, call.groups[0][:6])) + (" ..." if call.group_size > 6 else "")
    more = f", {len(call.groups)} groups" if len(call.groups) > 1 else ""
    return f"{call.kind} over {call.group_size} ranks {{{group}}}{more}: {binary(call.received[-1].most)}"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>'
