"""The report as JSON ("weft.explain/2") and the JSON schema that it keeps. Only whole numbers, strings and lists."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from weft.explain.hops import TransferTraffic
from weft.explain.memory import RankMemoryUse
from weft.explain.report import LayoutReport
from weft.explain.traffic import BoundaryTraffic, CollectiveCall, RoutedTraffic
from weft.layout.placement import Placement
from weft.layout.serialize import json_schema as layout_schema
from weft.layout.serialize import to_dict

SCHEMA = "weft.explain/2"
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
        "quantization": report.kept.quantization,
        "compressed": report.kept.compressed,
        "layout": to_dict(report.layout),
        "derived": sorted(report.layout.derived),
        "residual": _placement(report.residual),
        "lm_head_is_view": report.tied_view,
        "ranks": [_rank(rank) for rank in report.ranks],
        "boundaries": [_boundary(passed) for passed in report.boundaries],
        "hops": [_hop(passed) for passed in report.hops],
        "dispatch": asdict(report.dispatch) if report.dispatch else None,
        "routed": [_routed(passed) for passed in report.routed],
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
        "argmax_sketch_bytes": rank.bounds,
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
        "received": [_received(received.batch, received.per_rank) for received in passed.received],
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
    number, text = {"type": "integer", "minimum": 0}, {"type": "string"}
    interval = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    placement = _object(
        kind={"enum": ["full", "shard", "partial"]},
        size={"type": "integer", "minimum": 1},
        cuts=_list(interval),
    )
    received = _object(rows_per_dp_group=number, bytes=_list(number), max=number, total=number)
    call = _object(
        kind={"enum": ["slice", "all_gather", "reduce_scatter", "all_reduce", "all_to_all"]},
        group_size=number,
        stride=number,
        ranks=_list(_list(number)),
        received=_list(received),
    )
    boundary = {
        "name": text,
        "from": placement,
        "to": placement,
        "width": number,
        "rows": {"enum": ["rows", "sampled"]},
        "item": {"enum": ["activation", "id", "logit", "choice"]},
        "times_of_stage": _list(number),
        "collectives": _list(call),
    }
    routed: Json = {"name": text, "way": {"enum": ["dispatch", "combine"]}, "width": number}
    routed |= {"times_of_stage": _list(number), "collectives": _list(call), "most": _list(received)}
    dispatch = _object(form={"enum": ["all_gather", "all_to_all"]}, reason=text)
    root = _object(
        schema={"const": SCHEMA},
        model=_model_schema(),
        dtype=text,
        quantization=text,
        compressed={"type": "boolean"},
        layout=layout_schema(),
        derived=_list(text),
        residual=placement,
        lm_head_is_view={"type": "boolean"},
        ranks=_list(_rank_schema(interval)),
        boundaries=_list(_object(**boundary)),
        hops=_list(_hop_schema(received)),
        dispatch={"anyOf": [dispatch, {"type": "null"}]},
        routed=_list(_object(**routed)),
        received_per_step=_list(received),
        received_for_largest=_list(received),
        cores={"anyOf": [_cores_schema(), {"type": "null"}]},
        notes=_list(_object(level={"enum": ["info", "warning"]}, code=text, message=text)),
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **root}


def _model_schema() -> Json:
    number = {"type": "integer", "minimum": 1}
    names = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "intermediate_size", "vocab_size")
    text: Json = {"type": "string"}
    return _object(name=text, family=text, **dict.fromkeys(names, number), tied_embeddings={"type": "boolean"})


def _cores_schema() -> Json:
    """Of this machine, where any were asked for."""
    cpus = _list({"type": "integer", "minimum": 0})
    return _object(ranks=_list(_object(cpus=cpus, threads={"type": "integer", "minimum": 1})), server_cpus=cpus)


def _hop_schema(received: Json) -> Json:
    number: Json = {"type": "integer", "minimum": 0}
    return _object(
        name={"enum": ["stage.in", "ids.in"]},
        from_stage=number,
        to_stage=number,
        width=number,
        rows={"enum": ["rows", "sampled"]},
        item={"enum": ["stream", "id"]},
        received=_list(received),
    )


def _rank_schema(interval: Json) -> Json:
    number: Json = {"type": "integer", "minimum": 0}
    return _object(
        rank=number,
        coords=_object(**dict.fromkeys(("replica", "stage", "dp", "cp", "tp"), number)),
        node=number,
        layers=interval,
        q_heads=interval,
        kv_heads=interval,
        slots={"anyOf": [interval, {"type": "null"}]},
        shares={"type": "object", "additionalProperties": _object(interval=interval, of=number)},
        bytes={"type": "object", "additionalProperties": number},
        param_bytes=number,
        argmax_sketch_bytes=number,
        kv_bytes_per_token=number,
    )


def _object(**properties: Json) -> Json:
    """Every key is there, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}
