"""Text, boxes and arrows of a picture as SVG."""

from __future__ import annotations

from xml.sax.saxutils import escape

from weft.tools.explain.svg import ARROW, STYLE


def svg(title: str, width: int, height: int, body: list[str]) -> str:
    """A picture of `width` x `height` pixels."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    background = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([f"{head}<title>{title}</title><style>{STYLE}</style>{ARROW}{background}", *body, "</svg>", ""])


def text(x: int, y: int, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words that begin, or with `middle` are centred, at x; `kind`: b bold, s small, t title."""
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: int, y: int, width: int, height: int, colour: str, lines: tuple[str, ...]) -> list[str]:
    """A box with lines of text, the first of them bold where there are several."""
    middle, top = x + width // 2, y + height // 2 + 4 - 8 * (len(lines) - 1)
    kinds = ["b" if len(lines) > 1 else "", *["s"] * (len(lines) - 1)]
    found = [text(middle, top + 16 * n, line, kinds[n], "middle") for n, line in enumerate(lines)]
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{colour}" fill-opacity="0.35"'
    return [f'{shape} stroke="#444"/>', *found]


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    """A line with a head."""
    return f'<path class="a" d="M{x1} {y1}L{x2} {y2}"/>'
