"""Line numbers of listings, taken off the text that they stand in front of."""

from __future__ import annotations

import re
from collections.abc import Sequence

ListingRow = tuple[int, int, str]
"""A line's number, the columns cut off its front, and what is left of it."""
_NUMBERED = re.compile(r"^[ \t]*(\d{1,9})(?:[ \t]*\|)?(?=[ \t]|$)")
_LISTING = re.compile(r"[ \t]*((?:\d{1,4}[ \t]+)+)\|[ \t]*(?=\S)")


def unnumbered(rows: Sequence[ListingRow]) -> list[ListingRow]:
    """Without the line numbers of a listing: a column of them before the text, or one in front of every line."""
    rows = [_without_listing(row) for row in rows]
    bare = 0
    while bare < len(rows) and re.fullmatch(rf"[ \t]*{bare + 1}[ \t]*", rows[bare][2]):
        bare += 1
    if bare > 2:
        return list(rows[bare:])
    filled = [row for row in rows if row[2].strip()]
    numbers = [_NUMBERED.match(text) for _, _, text in filled]
    found = [int(match[1]) for match in numbers if match]
    if len(found) < max(3, len(filled)) or any(
        after != before + 1 for before, after in zip(found, found[1:], strict=False)
    ):
        return list(rows)
    cut = [
        (number, len(match[0]) if match else 0, text) for number, _, text in rows for match in [_NUMBERED.match(text)]
    ]
    return [(number, width, text[width:]) for number, width, text in cut]


def _without_listing(row: ListingRow) -> ListingRow:
    """A line without all of a listing's numbers in front of it: `1 2 3 4 | {`."""
    match = _LISTING.match(row[2])
    numbers = list(map(int, match[1].split())) if match else []
    counted = len(numbers) > 2 and numbers == list(range(1, len(numbers) + 1))
    return (row[0], row[1] + match.end(), row[2][match.end() :]) if match and counted else row
