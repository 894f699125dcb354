"""Packs replicas into ranks so that the heaviest rank is as light as can be. All layers at once, in NumPy.

Three parts: assign replicas round robin; pair heavy ranks with light ones and swap a replica each, many pairs at a
time; then improve each layer's heaviest rank until no exchange with another rank makes the heavier of the two lighter.
No step puts two replicas of one expert on one rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np

from weft.parallel.experts.statistics.loads import BoolArray, FloatArray, IntArray

PAIR_ROUNDS = 20
CLOSE_ENOUGH = 1e-4
"""A rank at most this far above the mean is not improved: no load is known to a hundredth of a percent."""
EXCHANGES_PER_RANK = 20
DOUBLE_EXCHANGE_LIMIT = 4_000_000
"""Above this many candidates (many slots a rank) two-for-two exchanges are skipped; single ones are then as good."""
LESS = 1 - 1e-6


@dataclass(slots=True)
class RankPacking:
    """owners and shares of replicas, [layers, ranks, slots per rank]; changed in place by the functions below."""

    owners: IntArray
    shares: FloatArray

    @property
    def totals(self) -> FloatArray:
        """Load of each rank, [layers, ranks]."""
        return cast(FloatArray, self.shares.sum(axis=2))


def pack(owners: IntArray, shares: FloatArray, ranks: int) -> RankPacking:
    """Packs replicas, [layers, slots] with the largest share first and replicas of one expert side by side.

    At most `ranks` replicas of an expert; they then stand on different ranks.
    """
    packing = assign_round_robin(owners, shares, ranks)
    for turn in range(PAIR_ROUNDS):
        swap_between_pairs(packing, shift=turn % 4)
    relieve_heaviest(packing)
    return packing


def assign_round_robin(owners: IntArray, shares: FloatArray, ranks: int) -> RankPacking:
    """Replica i to rank i mod ranks: neighbours, and so the replicas of one expert, go to different ranks."""
    layers, slots = owners.shape
    shape = (layers, slots // ranks, ranks)
    return RankPacking(owners.reshape(shape).transpose(0, 2, 1).copy(), shares.reshape(shape).transpose(0, 2, 1).copy())


def swap_between_pairs(packing: RankPacking, shift: int = 0) -> None:
    """Pairs the i-th heaviest rank with the i-th lightest (rotated by `shift` places) and makes the best single swap of
    each pair: the one that leaves the two most alike."""
    layers, ranks, width = packing.owners.shape
    if ranks < 2:
        return
    order = np.argsort(-packing.totals, axis=1, kind="stable")
    heavy = order[:, : ranks // 2]
    light = np.roll(order[:, ::-1][:, : ranks // 2], shift, axis=1)
    rows = np.arange(layers)[:, None]
    mine, theirs = packing.shares[rows, heavy], packing.shares[rows, light]
    gap = mine.sum(axis=2) - theirs.sum(axis=2)
    after = np.abs(gap[:, :, None, None] - 2 * (mine[:, :, :, None] - theirs[:, :, None, :]))
    after[_duplicates(packing.owners[rows, heavy], packing.owners[rows, light])] = np.inf
    flat = after.reshape(layers, ranks // 2, width * width)
    best = flat.argmin(axis=2)
    gains = np.take_along_axis(flat, best[:, :, None], axis=2)[:, :, 0] < np.abs(gap) * LESS
    layer, pair = np.nonzero(gains)
    here, there = np.divmod(best[layer, pair], width)
    _swap(packing, layer, (heavy[layer, pair], here), (light[layer, pair], there))


def relieve_heaviest(packing: RankPacking) -> None:
    """Exchanges replicas of the heaviest rank with the best other rank, layer by layer, until none helps: first one for
    one, for all layers together; where that ends, two for two."""
    layers, ranks, width = packing.owners.shape
    doubles = np.array(list(combinations(range(width), 2)), dtype=np.int64).reshape(-1, 2)
    use_doubles = 0 < ranks * len(doubles) ** 2 <= DOUBLE_EXCHANGE_LIMIT
    open_layers = np.arange(layers)
    for _ in range(EXCHANGES_PER_RANK * ranks):
        totals = packing.totals[open_layers]
        open_layers = open_layers[totals.max(axis=1) > totals.mean(axis=1) * (1 + CLOSE_ENOUGH)]
        if not len(open_layers):
            return
        helped = _exchange_one(packing, open_layers)
        if use_doubles:
            for index in np.flatnonzero(~helped):
                helped[index] = _exchange_two(packing, int(open_layers[index]), doubles)
        open_layers = open_layers[helped]


def _exchange_one(packing: RankPacking, layers: IntArray) -> BoolArray:
    """The best one-for-one exchange of each layer's heaviest rank, done where it helps; says where it did."""
    width = packing.owners.shape[2]
    totals, shares, owners = packing.totals[layers], packing.shares[layers], packing.owners[layers]
    rows = np.arange(len(layers))
    heaviest = totals.argmax(axis=1)
    top = totals[rows, heaviest]
    delta = shares[rows, heaviest][:, None, :, None] - shares[:, :, None, :]
    worse = np.maximum(top[:, None, None, None] - delta, totals[:, :, None, None] + delta)
    worse[_duplicates(np.broadcast_to(owners[rows, heaviest][:, None], owners.shape), owners)] = np.inf
    worse[rows, heaviest] = np.inf
    flat = worse.reshape(len(layers), -1)
    best = flat.argmin(axis=1)
    helps = flat[rows, best] < top * LESS
    rank, here, there = np.unravel_index(best[helps], (totals.shape[1], width, width))
    _swap(packing, layers[helps], (heaviest[helps], here), (rank, there))
    return cast(BoolArray, helps)


def _exchange_two(packing: RankPacking, layer: int, doubles: IntArray) -> bool:
    """The best two-for-two exchange of one layer's heaviest rank, done if it helps; `doubles` [pairs, 2] of slots."""
    totals, shares, owners = packing.totals[layer], packing.shares[layer], packing.owners[layer]
    heaviest = int(totals.argmax())
    delta = shares[heaviest][doubles].sum(axis=1)[None, :, None] - shares[:, doubles].sum(axis=2)[:, None, :]
    worse = np.maximum(totals[heaviest] - delta, totals[:, None, None] + delta)
    equal = owners[heaviest][None, :, None] == owners[:, None, :]
    here_bad, there_bad = equal.any(axis=2)[:, doubles].any(axis=2), equal.any(axis=1)[:, doubles].any(axis=2)
    worse[here_bad[:, :, None] | there_bad[:, None, :]] = np.inf
    worse[heaviest] = np.inf
    best = int(worse.argmin())
    if worse.flat[best] >= totals[heaviest] * LESS:
        return False
    rank, here, there = np.unravel_index(best, worse.shape)
    index = np.full(2, layer)
    _swap(packing, index, (np.full(2, heaviest), doubles[here]), (np.full(2, rank), doubles[there]))
    return True


def _duplicates(mine: IntArray, theirs: IntArray) -> BoolArray:
    """[..., mine, theirs]: swapping the two would put an expert on a rank that keeps or has it; an expert that both
    ranks have never moves between them."""
    equal = mine[..., :, None] == theirs[..., None, :]
    return cast(BoolArray, equal.any(axis=-1)[..., :, None] | equal.any(axis=-2)[..., None, :])


Place = tuple[IntArray, IntArray]
"""(rank, slot on the rank), one of each for every layer named with it."""


def _swap(packing: RankPacking, layers: IntArray, mine: Place, theirs: Place) -> None:
    for x in (packing.owners, packing.shares):
        x[layers, mine[0], mine[1]], x[layers, theirs[0], theirs[1]] = (
            x[layers, theirs[0], theirs[1]],
            x[layers, mine[0], mine[1]],
        )
