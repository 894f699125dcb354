"""What must be true of schedulers and block managers between any two events, by brute force. Reads private state."""

from __future__ import annotations

from collections import Counter

from weft.engine.core.engine import Engine
from weft.engine.core.kv_cache.block_hashes import ROOT, chain_digest
from weft.engine.core.request import ALL_BLOCKS, Request
from weft.engine.core.scheduler.decode_batch import DecodeBatch
from weft.engine.core.scheduler.scheduler import Scheduler


def check_engine(engine: Engine) -> None:
    """Every group of an engine between two steps."""
    live = [pair for outputs in engine._live.values() for pair in outputs.values()]
    for scheduler in engine._coordinator.schedulers:
        for batch in scheduler._lanes:
            sync_all(batch)
        requests = [request for request, owner in live if owner is scheduler]
        check_requests(scheduler, requests)
        check_blocks(scheduler, requests)
        check_queue(scheduler, requests)
        check_batch(scheduler)


def sync_all(batch: DecodeBatch) -> None:
    """Writes to every request of a batch what its row has computed."""
    for row in batch._by_arrival.values():
        batch.sync(row)


def check_requests(scheduler: Scheduler, requests: list[Request]) -> None:
    """Each live request runs in one slot or waits without blocks; counters agree with a new count."""
    running = [*scheduler._decoding.values(), *scheduler._prefilling.values()]
    assert len(running) == len({id(request) for request in running}) == scheduler.num_running
    assert {id(request) for request in running} == {id(request) for request in requests if request.slot >= 0}
    held = [each.slot for each in scheduler._deferred_free._waiting if each.slot >= 0]
    slots = [request.slot for request in running] + scheduler._slots + held
    assert sorted(slots) == list(range(scheduler.limits.max_num_seqs)), "slots lost or given twice"
    for request in requests:
        assert not request.done
        full = scheduler.limits.blocks_for(request.num_computed)
        assert len(request.table) >= full if request.slot >= 0 else request.table == [] and request.num_computed == 0
    prefilling = (request for request in scheduler._prefilling.values() if request.num_unplanned > 0)
    unfinished = [request for request in prefilling if not request.scores]
    assert len(unfinished) <= 1, "two unfinished prefills"
    assert all(request.num_uncomputed == 1 for request in scheduler._decoding.values())
    assert scheduler.queued_tokens == sum(request.num_uncomputed for request in requests), "queued tokens"
    waiting = len(scheduler._waiting) + len(scheduler.compiling)
    assert waiting == sum(request.slot < 0 and not request.paused for request in requests), "waiting"
    in_flight = Counter(id(request) for flight in scheduler._in_flight for request, admission, run in flight.entries)
    assert scheduler._in_flight or not scheduler._deferred_free, "blocks held back without a step in flight"
    for request in requests:
        rows = (
            run.count
            for flight in scheduler._in_flight
            for each, admission, run in flight.entries
            if each is request and admission == request.admission
        )
        assert request.num_in_flight == sum(rows) and (request.num_in_flight == 0 or in_flight[id(request)]), (
            "in flight"
        )


def check_batch(scheduler: Scheduler) -> None:
    """All requests that decode are in a batch, or on their way to one; columns agree with the requests."""
    lanes = scheduler._lanes
    every = [arrival for batch in lanes for arrival in batch._by_arrival]
    assert len(every) == len(set(every)) and set(every) == set(lanes._batch_of)
    assert set(scheduler._decoding) <= {*every, *lanes._moving} <= {*scheduler._decoding, *scheduler._prefilling}
    for batch in lanes:
        check_one_batch(scheduler, batch)
    scheduler.balance()
    sizes = lanes._sizes()
    assert len(sizes) == 1 or max(sizes) - min(sizes) < 2, "uneven lanes"


def check_one_batch(scheduler: Scheduler, batch: DecodeBatch) -> None:
    """One decode batch."""
    batch_rows = batch._by_arrival
    assert all(row.alive and row.request.arrival == arrival for arrival, row in batch_rows.items())
    for arrival in scheduler._decoding.keys() & batch_rows.keys():
        request = batch_rows[arrival].request
        if arrival in scheduler._lanes._moving or batch_rows[arrival].synced > batch.processed:
            continue
        assert request.num_computed == len(request.token_ids) - 1 == batch.processed + batch_rows[arrival].offset
    planned = [row for row in (*batch._rows, *batch._joined) if row.planned]
    assert len(planned) == batch.num_rows and set(planned) <= set(batch_rows.values())
    assert [row.number for row in planned] == sorted(row.number for row in planned)
    for row in planned:
        assert row.slot == row.request.slot and row.table is row.request.table
        assert row.request.num_known == ALL_BLOCKS or row in batch._growth._changed
    ending = Counter(token for row in batch_rows.values() for token in row.request.eos_ids | row.request.stop_ids)
    assert ending == batch._stop_tokens.counts
    for row, (slot, start, place) in zip(batch._rows, batch._columns.T.tolist(), strict=True):
        if row.planned:
            assert (slot, start + batch._moved) == (row.request.slot, batch.tick + row.offset) and batch.tick < row.end
            assert place == start + 1 - row.request.num_prompt


def check_blocks(scheduler: Scheduler, requests: list[Request]) -> None:
    """free + idle + held = all; references are the holders; only equal contents are shared; idle leaves come first."""
    blocks, size = scheduler.blocks, scheduler.limits.block_size
    holders = Counter(block for request in requests for block in request.table)
    holders += Counter(block for held in scheduler._deferred_free._waiting for block in held.blocks)
    references = {block: count for block, count in enumerate(blocks._references) if count}
    assert references == dict(holders), "reference counts"
    states = [*blocks._free, *blocks._idle, *holders]
    assert sorted(states) == list(range(1, blocks.num_blocks + 1)), "free + idle + held is not all"
    assert blocks.num_available == len(blocks._free) + len(blocks._idle)
    published = {block: digest for block, digest in enumerate(blocks._digest) if digest is not None}
    assert {digest: block for block, digest in published.items()} == blocks._by_digest
    assert set(blocks._idle) <= set(published) and not set(blocks._free) & set(published)
    check_contents(requests, holders, published, size)
    parents = {block: blocks._parent[block] for block in published}
    assert {0, *parents.values()} <= {0, *published}, "a cached block without a path from a root"
    order = {block: place for place, block in enumerate(blocks._idle)}
    for block, parent in parents.items():
        if parent in order:
            assert order.get(block, len(order)) < order[parent], "a parent goes before its child"


def check_contents(requests: list[Request], holders: Counter[int], published: dict[int, bytes], size: int) -> None:
    """A block with several holders is full and computed, and all of them have the same tokens up to its end."""
    seen: dict[int, bytes] = {}
    for request in requests:
        digest = ROOT
        for index, block in enumerate(request.table):
            full = (index + 1) * size <= request.num_computed
            assert full or (holders[block] == 1 and block not in published), "an unfinished block is shared"
            if full:
                digest = chain_digest(digest, request.token_ids[index * size : (index + 1) * size])
                assert seen.setdefault(block, digest) == digest, "one block, two contents"
                assert published.get(block, digest) == digest, "published under another content's digest"


def check_queue(scheduler: Scheduler, requests: list[Request]) -> None:
    """Claims are what running requests have still to compute; requests are parked on nothing else."""
    size, queue = scheduler.limits.block_size, scheduler._waiting
    claims: dict[bytes, list[Request]] = {}
    for request in requests:
        for digest in request.digests[request.num_computed // size : request.num_claimed]:
            claims.setdefault(digest, []).append(request)
    assert {digest: sorted(map(id, owners)) for digest, owners in claims.items()} == {
        digest: sorted(map(id, owners)) for digest, owners in queue._claims.items()
    }, "claims"
    assert set(queue._parked) <= set(queue._claims), "parked for ever"
    entries = [request for _, request in queue._heap] + [each for parked in queue._parked.values() for each in parked]
    alive = [request for request in entries if not request.done]
    assert len(alive) == len({id(request) for request in alive}) == len(queue)
