"""The report as JSON ("weft.explain/3") and the JSON schema that it keeps. Only whole numbers, strings and lists."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from weft.base.data_files import read_schema
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.serialize import json_schema as layout_schema
from weft.parallel.layout.serialize import to_dict
from weft.tools.explain.hops import TransferTraffic
from weft.tools.explain.memory import RankMemoryUse
from weft.tools.explain.report import LayoutReport
from weft.tools.explain.traffic import BoundaryTraffic, CollectiveCall, OwnerTraffic, PromptTraffic, RoutedTraffic

SCHEMA = "weft.explain/3"
Json = dict[str, Any]


def document(report: LayoutReport) -> Json:
    """The report as plain data; keys are stable, see `json_schema`."""
    config = report.config
    return {
        "schema": SCHEMA,
        "model": {
            "name": report.model,
            "family": config.family,
            "layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "heads": config.num_heads,
            "kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.intermediate_size,
            "vocab_size": config.vocab_size,
            "tied_embeddings": config.tie_embeddings,
        },
        "dtype": report.dtype,
        "quantization": report.storage.quantization,
        "compressed": report.storage.compressed,
        "layout": to_dict(report.layout),
        "derived": sorted(report.layout.derived),
        "residual": _placement(report.residual),
        "lm_head_is_view": report.tied_view,
        "ranks": [_rank(rank) for rank in report.ranks],
        "boundaries": [_boundary(passed) for passed in report.boundaries],
        "hops": [_hop(passed) for passed in report.hops],
        "dispatch": asdict(report.dispatch) if report.dispatch else None,
        "routed": [_routed(passed) for passed in report.routed],
        "owners": [_of_owners(passed) for passed in report.of_owners],
        "prompt": _prompt(report.prompt) if report.prompt else None,
        "received_per_step": [_received(batch, report.received_per_step(batch)) for batch in report.batches],
        "received_for_largest": [
            _received(batch, report.received_for_largest(batch)) for batch in report.batches if report.largest
        ],
        "cores": report.cores.document() if report.cores else None,
        "notes": [asdict(note) for note in report.notes],
    }


def _rank(rank: RankMemoryUse) -> Json:
    return {
        "rank": rank.rank,
        "coords": asdict(rank.coords),
        "node": rank.node,
        "layers": list(rank.layers),
        "q_heads": list(rank.q_heads),
        "kv_heads": list(rank.kv_heads),
        "shares": {name: {"interval": list(share.interval), "of": share.whole} for name, share in rank.shares.items()},
        "bytes": rank.bytes,
        "slots": list(rank.slots) if rank.slots else None,
        "param_bytes": rank.total,
        "kv_bytes_per_token": rank.kv_bytes_per_token,
    }


def _boundary(passed: BoundaryTraffic) -> Json:
    boundary = passed.boundary
    return {
        "name": boundary.name,
        "from": _placement(boundary.src),
        "to": _placement(boundary.dst),
        "width": boundary.width,
        "rows": boundary.rows,
        "item": boundary.item,
        "times_of_stage": list(passed.times_of_stage),
        "collectives": [_call(call) for call in passed.calls],
    }


def _hop(passed: TransferTraffic) -> Json:
    hop = passed.hop
    return {
        "name": hop.name,
        "from_stage": hop.sender,
        "to_stage": hop.receiver,
        "width": hop.width,
        "rows": hop.rows,
        "item": hop.item,
        "nodes": [list(pair) for pair in passed.nodes],
        "received": [_received(received.batch, received.per_rank) for received in passed.received],
        "collectives": [_call(call) for call in passed.gathers],
    }


def _routed(passed: RoutedTraffic) -> Json:
    exchange = passed.exchange
    return {
        "name": exchange.name,
        "way": exchange.way,
        "width": exchange.width,
        "times_of_stage": list(passed.times_of_stage),
        "collectives": [_call(call) for call in passed.calls],
        "most": [_received(received.batch, received.per_rank) for received in passed.most],
    }


def _of_owners(passed: OwnerTraffic) -> Json:
    exchange = passed.exchange
    return {
        "name": exchange.name,
        "way": exchange.way,
        "heads": list(exchange.heads),
        "width": exchange.width,
        "times_of_stage": list(passed.times_of_stage),
        "collectives": [_call(call) for call in passed.calls],
    }


def _prompt(prompt: PromptTraffic) -> Json:
    return {
        "rows": prompt.rows,
        "block_size": prompt.block_size,
        "longest_context_by_keys": prompt.longest,
        "exchanges": [_of_owners(passed) for passed in prompt.exchanges],
    }


def _call(call: CollectiveCall) -> Json:
    return {
        "kind": call.kind,
        "group_size": call.group_size,
        "stride": call.stride,
        "ranks": [list(group) for group in call.groups],
        "received": [_received(received.batch, received.per_rank) for received in call.received],
    }


def _received(batch: int, per_rank: tuple[int, ...]) -> Json:
    return {"rows_per_dp_group": batch, "bytes": list(per_rank), "max": max(per_rank), "total": sum(per_rank)}


def _placement(placement: Placement) -> Json:
    cuts = [list(cut) for cut in placement.cuts]
    return {"kind": str(placement.kind), "size": placement.size, "cuts": cuts}


def json_schema() -> Json:
    """JSON schema (2020-12) of `document`."""
    schema = read_schema("weft.tools.explain", SCHEMA)
    schema["properties"]["layout"] = layout_schema()
    return schema
