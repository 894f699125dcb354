"""How columns and heads are split over a block of ranks.

One rule per unit, read by weights, transitions and pictures alike: `even_splits` for anything that splits freely,
`assign_heads` for attention, `splits_after` for o_proj, which follows attention's own columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.base.errors import LayoutError
from weft.base.plural import counted, up_to
from weft.parallel.layout.layout import Split
from weft.parallel.layout.placement import Interval


@dataclass(frozen=True, slots=True)
class HeadShare:
    """What one rank holds of attention: query heads [q) and the KV heads [kv) that they read."""

    q: Interval
    kv: Interval


def even_splits(n: int, k: int) -> tuple[Interval, ...]:
    """[0, n) in k neighbouring intervals that differ by at most one; the first take the remainder."""
    size, extra = divmod(n, k)
    starts = [i * size + min(i, extra) for i in range(k + 1)]
    return tuple(zip(starts, starts[1:], strict=False))


def assign_heads(heads: int, kv_heads: int, tp: int, split: Split = "auto") -> tuple[HeadShare, ...]:
    """The heads of every rank of an attention block of `tp` ranks, in head order.

    "groups": whole KV groups while there are at least tp KV heads, else ranks are assigned to KV heads and a KV head's
    queries to its ranks, so that no rank holds two KV heads without need. "balanced": query heads differ by at most
    one, a rank may then hold a part of two groups. "auto": balanced where the busiest rank then has fewer query heads
    and none holds more KV heads than with groups; else groups. LayoutError where a rank would be left without a query
    head.
    """
    if heads % kv_heads:
        raise LayoutError(f"{heads} heads cannot share {kv_heads} KV heads evenly", field="num_key_value_heads")
    if not 1 <= tp <= heads:
        raise LayoutError(
            f"attention.tp {tp}: the model has {counted(heads, 'head')} and every rank needs one;"
            f" legal: {up_to(heads)}",
            field="attention.tp",
            value=tp,
            legal=range(1, heads + 1),
        )
    group = heads // kv_heads
    even = _balanced(heads, group, tp)
    if split == "balanced":
        return even
    enough = kv_heads >= tp
    whole = (
        _whole_groups(group, even_splits(kv_heads, tp)) if enough else _split_groups(group, even_splits(tp, kv_heads))
    )
    if split == "groups":
        return whole
    return even if _busiest(even) < _busiest(whole) and _fullest(even) <= _fullest(whole) else whole


def _busiest(shares: tuple[HeadShare, ...]) -> int:
    return max(share.q[1] - share.q[0] for share in shares)


def _fullest(shares: tuple[HeadShare, ...]) -> int:
    return max(share.kv[1] - share.kv[0] for share in shares)


def _balanced(heads: int, group: int, tp: int) -> tuple[HeadShare, ...]:
    return tuple(HeadShare((lo, hi), (lo // group, (hi - 1) // group + 1)) for lo, hi in even_splits(heads, tp))


def _whole_groups(group: int, kv_cuts: tuple[Interval, ...]) -> tuple[HeadShare, ...]:
    return tuple(HeadShare((lo * group, hi * group), (lo, hi)) for lo, hi in kv_cuts)


def _split_groups(group: int, ranks_of_head: tuple[Interval, ...]) -> tuple[HeadShare, ...]:
    return tuple(
        HeadShare((head * group + lo, head * group + hi), (head, head + 1))
        for head, (first, last) in enumerate(ranks_of_head)
        for lo, hi in even_splits(group, last - first)
    )


def attended_heads(shares: Sequence[HeadShare], place: int, kv_split: int) -> HeadShare:
    """The heads that the rank at `place` of an attention block attends for over its own keys: those of all ranks of its
    kv_split, whose KV heads are alike."""
    first = place // kv_split * kv_split
    return HeadShare((shares[first].q[0], shares[first + kv_split - 1].q[1]), shares[place].kv)


def splits_after(src_cuts: tuple[Interval, ...], k: int) -> tuple[Interval, ...]:
    """The intervals of a block of k ranks that reads what a block with `src_cuts` gives, so that little has to move.

    t = len(src_cuts), neighbours in order from 0. k = t: the same cuts. k = m * t: each cut in m pieces, position p
    holds piece p // t of cut p % t (a rank stays inside its own cut). k divides t: neighbours merged. Else even cuts.
    """
    t = len(src_cuts)
    if k == t:
        return src_cuts
    if k % t == 0:
        pieces = [_pieces(cut, k // t) for cut in src_cuts]
        return tuple(pieces[p % t][p // t] for p in range(k))
    if t % k == 0 and _in_order(src_cuts):
        m = t // k
        return tuple((src_cuts[j * m][0], src_cuts[j * m + m - 1][1]) for j in range(k))
    return even_splits(max(hi for _, hi in src_cuts), k)


def _pieces(cut: Interval, m: int) -> tuple[Interval, ...]:
    return tuple((cut[0] + lo, cut[0] + hi) for lo, hi in even_splits(cut[1] - cut[0], m))


def _in_order(cuts: tuple[Interval, ...]) -> bool:
    return all(before[1] == after[0] for before, after in zip(cuts, cuts[1:], strict=False))
