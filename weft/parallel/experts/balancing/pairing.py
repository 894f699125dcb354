"""Two slots a rank: replica counts and pairing searched together, one layer at a time.

For given counts the best pairing is known: the largest share with the smallest, the second with the second smallest,
and so on; so the search is over counts alone. The split-the-largest rule is far from best here, for a hot replica
needs a cold partner, and replicating cold experts gives cold partners.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from weft.parallel.experts.balancing.conditions import Conditions
from weft.parallel.experts.balancing.packing import RankPacking
from weft.parallel.experts.balancing.replication import replicas, replicate
from weft.parallel.experts.statistics.loads import BoolArray, FloatArray, IntArray

ROUNDS = 150
CANDIDATES = 96
TARGET = 0.995
"""The annealing looks for plans that are this much better than the best known one, and is guided by what is missing."""
HOT, COLD = 64, 8
NEAR = 6
UPHILL = 0.1
PATIENCE = 60
BETTER = 1 - 1e-9
HALVINGS, PRICE_ROUNDS = 4, 30
MOST_REPLICAS, PRICED_CONDITIONS = 12, 48


def pair(loads: FloatArray, ranks: int) -> RankPacking:
    """The packing of every layer into two slots a rank; loads [layers, experts]. Deterministic."""
    counts = np.stack([search_counts(row, ranks) for row in loads])
    packing = fold(*replicas(loads, counts))
    for layer in range(len(loads)):
        _separate_duplicates(packing.owners[layer], packing.shares[layer])
    return packing


def fold(owners: IntArray, shares: FloatArray) -> RankPacking:
    """Replica i, largest first, goes with replica 2 * ranks - 1 - i."""
    ranks = owners.shape[1] // 2
    first, last = slice(None, ranks), slice(None, ranks - 1, -1)
    return RankPacking(
        np.stack((owners[:, first], owners[:, last]), axis=2), np.stack((shares[:, first], shares[:, last]), axis=2)
    )


def search_counts(loads: FloatArray, ranks: int) -> IntArray:
    """Replicas of each expert, [experts], 2 * ranks in all and at most one a rank; loads [experts].

    Starts from the split-the-largest rule and, for loads of the heaviest rank between the mean and what is reached,
    from counts chosen by price; improves the best of them by moving replicas, then by annealing.
    """
    counts: IntArray = replicate(loads[None], 2 * ranks, cap=ranks)[0]
    if counts.sum() == len(loads):
        return counts
    best = _descend(loads, counts, ranks)
    low, high = float(loads.sum()) / ranks, float(heaviest(loads, best[None])[0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        start = _priced_counts(loads, ranks, middle)
        if start is not None:
            best = _better(loads, best, _descend(loads, start, ranks))
        top = float(heaviest(loads, best[None])[0])
        low, high = (low, min(top, middle)) if top <= middle else (middle, min(top, high))
    return _anneal(loads, best, ranks)


def _priced_counts(loads: FloatArray, ranks: int, top: float) -> IntArray | None:
    """Counts that come near to a heaviest rank of `top`; None where no counts can."""
    slots = 2 * ranks
    most = min(MOST_REPLICAS, ranks, slots - len(loads) + 1)
    conditions = Conditions(loads, slots, 2, top, most=most, values=PRICED_CONDITIONS)
    if conditions.dead.all(axis=1).any():
        return None
    found = [_fitted(loads, counts, slots, ranks) for _, counts in conditions.priced(PRICE_ROUNDS)]
    if not found:
        return None
    distinct = np.unique(np.stack(found), axis=0)
    best: IntArray = distinct[heaviest(loads, distinct).argmin()]
    return best


def _fitted(loads: FloatArray, counts: IntArray, slots: int, ranks: int) -> IntArray:
    """The counts made to add up to `slots`: taken where the shares stay smallest, given to the coldest experts."""
    fitted = counts.copy()
    left = slots - int(fitted.sum())
    for _ in range(-left):
        fitted[np.where(fitted > 1, loads / np.maximum(fitted - 1, 1), np.inf).argmin()] -= 1
    for _ in range(left):
        fitted[np.where(fitted < ranks, loads, np.inf).argmin()] += 1
    return fitted


def _better(loads: FloatArray, one: IntArray, other: IntArray) -> IntArray:
    """The counts whose heaviest rank is lighter; the first if they are alike."""
    tops = heaviest(loads, np.stack((one, other)))
    return other if tops[1] < tops[0] * BETTER else one


def heaviest(loads: FloatArray, counts: IntArray) -> FloatArray:
    """Load of the heaviest rank under the best pairing, for many counts at once: counts [candidates, experts]."""
    return cast(FloatArray, _pair_totals(loads, counts).max(axis=1))


def _pair_totals(loads: FloatArray, counts: IntArray) -> FloatArray:
    shares = np.repeat((loads / counts).ravel(), counts.ravel()).reshape(len(counts), -1)
    shares.sort(axis=1)
    half = shares.shape[1] // 2
    totals: FloatArray = shares[:, :half] + shares[:, : half - 1 : -1]
    return totals


def _descend(loads: FloatArray, counts: IntArray, ranks: int) -> IntArray:
    """Moves replicas from one expert to another while that makes the heaviest rank lighter; the best move first."""
    best = float(heaviest(loads, counts[None])[0])
    while True:
        takers = np.union1d(_pool(loads, counts, HOT // 4), _bottleneck(loads, counts))
        givers = np.flatnonzero(counts > 1)
        giver, taker = np.repeat(givers, len(takers)), np.tile(takers, len(givers))
        candidates, legal = _move(np.repeat(counts[None], len(giver), axis=0), giver, taker, ranks)
        if not legal.any():
            return counts
        found = heaviest(loads, candidates[legal])
        if found.min() >= best * BETTER:
            return counts
        best = float(found.min())
        counts = candidates[legal][found.argmin()]


def _bottleneck(loads: FloatArray, counts: IntArray) -> IntArray:
    """The experts of the heaviest pair, and those a little hotter or colder than these two."""
    owners, shares = (x[0] for x in replicas(loads[None], counts[None]))
    half = len(owners) // 2
    worst = int((shares[:half] + shares[: half - 1 : -1]).argmax())
    partner = len(owners) - 1 - worst
    return np.concatenate((owners[max(0, worst - NEAR) : worst + 1], owners[partner : partner + NEAR]))


def _anneal(loads: FloatArray, counts: IntArray, ranks: int) -> IntArray:
    """Random single and double moves towards a target below the best known; falls back to the best when stuck."""
    random = np.random.default_rng(0)
    best, top = counts, float(heaviest(loads, counts[None])[0])
    since = 0
    for _ in range(ROUNDS):
        if top <= loads.sum() / ranks * (1 + 1e-4):
            break
        candidates = _random_moves(loads, counts, ranks, random)
        if not len(candidates):
            continue
        totals = _pair_totals(loads, np.concatenate((counts[None], candidates)))
        excess = np.maximum(totals - top * TARGET, 0).sum(axis=1)
        tops = totals[1:].max(axis=1)
        since += 1
        if tops.min() < top * BETTER:
            best = counts = candidates[tops.argmin()]
            top, since = float(tops.min()), 0
        elif since > PATIENCE:
            counts, since = best, 0
        elif excess[1:].min() < excess[0] or random.random() < UPHILL:
            counts = candidates[excess[1:].argmin()]
    return best


def _random_moves(loads: FloatArray, counts: IntArray, ranks: int, random: np.random.Generator) -> IntArray:
    """Counts [at most CANDIDATES, experts], one or two replicas moved; only legal ones."""
    givers, takers = np.flatnonzero(counts > 1), _pool(loads, counts, HOT)
    candidates = np.repeat(counts[None], CANDIDATES, axis=0)
    legal = np.ones(CANDIDATES, dtype=np.bool_)
    for first in (0, CANDIDATES // 2):
        part = slice(first, CANDIDATES)
        size = CANDIDATES - first
        giver, taker = random.choice(givers, size), random.choice(takers, size)
        candidates[part], good = _move(candidates[part], giver, taker, ranks)
        legal[part] &= good
    return candidates[legal]


def _move(counts: IntArray, giver: IntArray, taker: IntArray, ranks: int) -> tuple[IntArray, BoolArray]:
    """One replica from giver to taker in each row of counts [n, experts]; and which rows are legal."""
    rows = np.arange(len(counts))
    counts[rows, giver] -= 1
    counts[rows, taker] += 1
    legal = (giver != taker) & (counts[rows, giver] >= 1) & (counts[rows, taker] <= ranks)
    return counts, legal


def _pool(loads: FloatArray, counts: IntArray, hot: int) -> IntArray:
    """Experts worth another replica: those with the largest shares, and the coldest, which make partners."""
    order = np.argsort(-loads / counts, kind="stable")
    return cast(IntArray, np.unique(np.concatenate((order[:hot], order[-COLD:]))))


def _separate_duplicates(owners: IntArray, shares: FloatArray) -> None:
    """Where both slots of a rank hold one expert, swaps one of them with the rank where it costs least."""
    for rank in np.flatnonzero(owners[:, 0] == owners[:, 1]):
        free = np.flatnonzero((owners != owners[rank, 0]).all(axis=1))
        totals = np.maximum(shares[rank, :1] + shares[free], shares[rank, :1] + shares[free][:, ::-1])
        best = int(totals.argmin())
        other, slot = free[best // 2], best % 2
        for x in (owners, shares):
            x[rank, 1], x[other, slot] = x[other, slot], x[rank, 1]
