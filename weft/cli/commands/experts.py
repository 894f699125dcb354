"""`weft experts`: plans where experts lie, from recorded loads, and shows loads and placements. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from weft.base.errors import ConfigError, UsageError
from weft.base.options import check_range
from weft.cli.view.experts import print_heat_map, print_plan
from weft.parallel.experts import POLICIES, BalancePlan, ExpertPlacement, LoadBalancer, SlotShape
from weft.parallel.experts.files.formats import FORMATS, to_sglang, to_trtllm, to_weft
from weft.parallel.experts.files.sources import read_any, read_loads, read_placement
from weft.parallel.experts.pictures.draw import draw
from weft.parallel.experts.pictures.heat_map import HeatMap, load_map, rank_map, replica_map
from weft.parallel.experts.statistics.loads import FloatArray
from weft.parallel.experts.statistics.metric import balance

ACTIONS = ("balance", "show")
MAX_MOVED = 0.06
SHOW_SCHEMA = "weft.experts.show/1"
ONLY_FOR = {
    "balance": "slots nodes groups policy from_placement max_moved format layer_updates_per_iter".split(),
    "show": "loads png svg".split(),
}
"""Options, by action, that the other action refuses."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ACTION FILE and the options of both actions."""
    parser.add_argument("action", metavar="ACTION", help="balance: plan a placement from loads; show: draw a heat map")
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="statistics (JSON with logical_count [layers][experts]) or, for show, also a placement; may be gzip",
    )
    parser.add_argument("--ranks", type=int, metavar="R", help="expert parallel ranks")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_balance(parser.add_argument_group("balance"))
    show = parser.add_argument_group("show")
    show.add_argument("--loads", type=Path, metavar="FILE", help="with a placement: draw the ranks' loads under these")
    show.add_argument("--png", type=Path, metavar="FILE", help="draw into a PNG file (needs weft[pictures])")
    show.add_argument("--svg", type=Path, metavar="FILE", help="draw into an SVG file (needs weft[pictures])")


def _add_balance(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--slots", type=int, metavar="S", help="expert slots of a layer, over all ranks")
    group.add_argument("--nodes", type=int, metavar="N", help="nodes that the ranks stand on (default: 1)")
    group.add_argument(
        "--groups", type=int, metavar="G", help="groups of experts, as the router knows them (default: 1)"
    )
    policy = "hierarchical keeps groups inside nodes; auto: hierarchical where nodes and groups are given, else global"
    group.add_argument("--policy", metavar="P", help=f"{', '.join(POLICIES)} (default: auto); {policy}")
    group.add_argument(
        "--from-placement", type=Path, metavar="FILE", help="start from this placement, moving few slots"
    )
    group.add_argument(
        "--max-moved",
        type=float,
        metavar="SHARE",
        help=f"with --from-placement: share of a layer's slots that may change (default: {MAX_MOVED}; 1: no limit)",
    )
    group.add_argument(
        "--format", metavar="F", help=f"print the placement as {', '.join(FORMATS)} instead of a summary"
    )
    group.add_argument(
        "--layer-updates-per-iter",
        type=int,
        metavar="N",
        help="with --format trtllm: its field of this name (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """0; errors are raised."""
    if args.action not in ACTIONS:
        raise UsageError(f"unknown action {args.action!r} (actions: {', '.join(ACTIONS)})")
    _refuse_strangers(args)
    return _balance(args) if args.action == "balance" else _show(args)


def _refuse_strangers(args: argparse.Namespace) -> None:
    for action, names in ONLY_FOR.items():
        for name in names:
            if action != args.action and getattr(args, name) is not None:
                raise UsageError(f"{_flag(name)} belongs to `weft experts {action}`")


def _balance(args: argparse.Namespace) -> int:
    _check_balance_flags(args)
    loads = read_loads(args.file)
    shape = SlotShape(loads.shape[1], args.slots, args.ranks, args.nodes or 1, args.groups or 1)
    current = None if args.from_placement is None else _current(args.from_placement, loads, shape)
    limit = 1.0 if current is None else MAX_MOVED if args.max_moved is None else args.max_moved
    balancer = LoadBalancer(shape, args.policy or "auto", limit)
    started = time.perf_counter()
    plan = balancer.plan(loads, current)
    seconds = time.perf_counter() - started
    if args.json or args.format == "weft":
        print(json.dumps(to_weft(plan, shape, seconds)))
    elif args.format == "sglang":
        print(json.dumps(to_sglang(plan.placement)))
    elif args.format == "trtllm":
        layers = [layer for layer, value in enumerate(plan.balance.per_layer) if value is not None]
        print(to_trtllm(plan.placement, layers, args.layer_updates_per_iter or 0), end="")
    else:
        print_plan(plan, shape, _notes(plan, shape), _console())
    return 0


def _check_balance_flags(args: argparse.Namespace) -> None:
    for name in ("slots", "ranks"):
        if getattr(args, name) is None:
            raise UsageError(f"{_flag(name)} is needed")
    for name, value in (("nodes", args.nodes), ("groups", args.groups)):
        if value is not None:
            check_range(_flag(name), value, 1)
    if args.max_moved is not None and args.from_placement is None:
        raise UsageError("--max-moved needs --from-placement")
    if args.format is not None and args.format not in FORMATS:
        raise UsageError(f"--format {args.format}: legal: {', '.join(FORMATS)}")
    if args.json and args.format not in (None, "weft"):
        raise UsageError(f"--json with --format {args.format}: one of them")
    updates = args.layer_updates_per_iter
    if updates is not None and args.format != "trtllm":
        raise UsageError("--layer-updates-per-iter needs --format trtllm")
    if updates is not None:
        check_range("--layer-updates-per-iter", updates, 0)


def _current(path: Path, loads: FloatArray, shape: SlotShape) -> ExpertPlacement:
    source = read_placement(path, shape.ranks)
    assert source.placement is not None
    absent = [layer for layer in sorted(source.missing) if layer < len(loads) and loads[layer].any()]
    if absent:
        message = f"{path}: no layer {absent[0]}, but it has load; wanted every layer that has"
        raise ConfigError(message, field="from_placement", value=absent[0])
    return source.placement


def _notes(plan: BalancePlan, shape: SlotShape) -> tuple[str, ...]:
    """What a person may want to know before using the plan."""
    notes = []
    idle = plan.balance.per_layer.count(None)
    if idle:
        notes.append(f"{idle} layers have no load; their experts are placed evenly")
    if plan.policy == "global" and (shape.nodes > 1 or shape.groups > 1):
        notes.append(f"global: {shape.nodes} nodes and {shape.groups} groups do not limit the placement")
    if plan.policy == "hierarchical":
        notes.append("hierarchical: groups stay inside nodes; --policy global may balance better")
    return tuple(notes)


def _show(args: argparse.Namespace) -> int:
    source = read_any(args.file, args.ranks)
    if source.placement is None:
        for name in ("loads", "ranks"):
            if getattr(args, name) is not None:
                raise UsageError(f"{_flag(name)} needs a placement; {args.file} holds statistics")
        assert source.loads is not None
        heat_map = load_map(source.loads)
    elif args.loads is None:
        heat_map = replica_map(source.placement)
    else:
        loads = read_loads(args.loads)
        heat_map = rank_map(source.placement, loads)
        if not args.json:
            found = balance(source.placement, loads)
            print(f"balance {found.mean:.4f} mean, {found.min:.4f} worst layer (1 is perfect)")
    _print_map(heat_map, args)
    return 0


def _print_map(heat_map: HeatMap, args: argparse.Namespace) -> None:
    pictures = [path for path in (args.png, args.svg) if path is not None]
    for name, path in (("png", args.png), ("svg", args.svg)):
        if path is not None and path.suffix != f".{name}":
            raise UsageError(f"--{name} {path}: the file's name must end in .{name}")
    for path in pictures:
        draw(heat_map, path)
        print(f"wrote {path}", file=sys.stderr)
    if args.json:
        document = {"schema": SHOW_SCHEMA, "title": heat_map.title, "column": heat_map.column, "value": heat_map.value}
        print(json.dumps({**document, "layers": heat_map.layers, "values": heat_map.values.tolist()}))
    elif not pictures:
        print_heat_map(heat_map, _console())


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)
