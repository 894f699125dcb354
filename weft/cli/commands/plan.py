"""`weft plan`: which layouts of a model fit a cluster, which are worth measuring, and why not others. No torch.

Exit code 1: nothing fits.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from weft.base.errors import ConfigError, UsageError
from weft.base.options import check_range
from weft.base.settings import DTYPE_BYTES, EngineConfig, engine_settings, resolve_dtype
from weft.cli.args.dialects import add_dialect_arguments, take_foreign
from weft.cli.args.flags import GivenValue
from weft.cli.args.model import add_engine_arguments, engine_config_from
from weft.cli.args.model_config import add_config_model, model_config
from weft.cli.args.quantization import COUNTED, choices_from, file_from, storage_from
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.fit import check_fit, resolve_for
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import load_given, to_yaml
from weft.runtime.launch_plan.block_size import block_size_of
from weft.runtime.launch_plan.step_limits import with_step_tokens
from weft.tools.dialects.names import names
from weft.tools.dialects.registry import write
from weft.tools.explain.fits import lines as fit_lines
from weft.tools.explain.proposals import StepLoad
from weft.tools.explain.units import binary
from weft.tools.plan.clusters import Cluster, read_cluster
from weft.tools.plan.document import document, json_schema
from weft.tools.plan.goal import Goal
from weft.tools.plan.here import room_here, this_machine
from weft.tools.plan.measure import measure, measured_lines
from weft.tools.plan.plan import LayoutPlan, Ranked, Room, make_plan, room_by_explain, smallest_change, stated_layout
from weft.tools.plan.reasons import axes, reasons
from weft.tools.plan.rules import SearchRules, check_pins, read_sizes
from weft.tools.plan.search import search
from weft.tools.plan.text import lines

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|us)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
NEAREST = 3
"""Layouts that are shown where none fits."""
MOST_DOUBLED = 6
"""How often the devices are doubled to say how many would do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL may also be a bare config.json."""
    add_config_model(parser)
    group = parser.add_argument_group("what is planned")
    group.add_argument(
        "--cluster", default="here", metavar="CLUSTER",
        help="here (default), a device with a number as h200x8, or a YAML file: nodes, devices, device or its numbers",
    )  # fmt: skip
    group.add_argument("--streams", type=int, metavar="N", help="requests at once (default: 8)")
    group.add_argument("--in", dest="prompt", type=int, metavar="N", help="tokens of a prompt (default: 128)")
    group.add_argument("--out", dest="answer", type=int, metavar="N", help="tokens of an answer (default: 64)")
    group.add_argument("--tpot", metavar="TIME", help="longest time of a token, as 50ms: what keeps it is first")
    group.add_argument("--context", type=int, metavar="N", help="tokens of a request, for --requests")
    group.add_argument("--requests", type=int, metavar="N", help="with --context: requests that are to fit at once")
    group.add_argument("--pin", action="append", default=[], metavar="NAME=N", help="a given size, as dense.tp=4")
    group.add_argument("--max", action="append", default=[], metavar="NAME=N", help="a size that may not be passed")
    group.add_argument("--layout", type=Path, metavar="FILE", help="a layout document: where does it stand")
    add_engine_arguments(parser, only=(*COUNTED, "block_size", "mem_fraction_static"))
    add_dialect_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--top", type=int, default=5, metavar="N", help="layouts that are shown (default: 5)")
    group.add_argument(
        "--measure", type=int, metavar="N",
        help="on this machine: weft bench of the first N, and of --layout, in turns; predicted beside measured",
    )  # fmt: skip
    group.add_argument(
        "--write", metavar="FILE", help=f"write the first layout there, or print it for {', '.join(names())}"
    )
    group.add_argument("--json", action="store_true", help="print JSON, with the schema that --schema prints")
    group.add_argument("--schema", action="store_true", help="print the JSON schema of --json and end")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where nothing fits; errors are raised."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    check_range("--top", args.top, 1, 1000)
    _check_measure(args)
    take_foreign(args, only=COUNTED)
    name, config = model_config(args.model, args.revision, without_checkpoint=args.without_checkpoint)
    engine = engine_config_from(args)
    engine = replace(engine, dtype=resolve_dtype(engine.dtype, config.dtype))
    stated = _stated(args, config)
    cluster = this_machine() if args.cluster == "here" else read_cluster(args.cluster, engine.dtype)
    file = file_from(args)
    storage = storage_from(engine, config, file)
    choices = choices_from(engine, config, file, storage)
    here = cluster.shared
    goal = _goal(args, config, engine, replace(storage, compressed=here and choices.compressed))
    goal.check(config)
    if config.quantization:
        _say(f"{name} has {config.quantization} weights, which weft explains and cannot load: plan for another engine")
        _say("  and write it with --write DIALECT")
    if stated is not None and stated.world > cluster.devices:
        raise ConfigError(
            f"the layout has {stated.world} ranks, but {cluster.name} has {cluster.devices} devices", field="--layout"
        )
    rules = _rules(args, cluster, config, goal)
    found, room = _plan(args, config, cluster, goal, rules, engine)
    if not found.leaders:
        return _nothing(args, config, cluster, goal, rules, engine, found)
    own = _ranked(found, stated, room) if stated is not None else None
    why = tuple(reasons(found.space, found.leaders[0]))
    if args.json:
        print(json.dumps(document(name, found, why, own), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(name, found, rules, why, own)))
    _missed(found)
    if args.measure is not None:
        several = [*found.leaders[: args.measure], *([own] if own is not None else [])]
        lines_of_bench = measured_lines(measure(_words(args), several, goal))
        print("\n".join(lines_of_bench), file=sys.stderr if args.json else sys.stdout)
    if args.write is not None:
        _write(args.write, found.leaders[0].layout, name)
    return 0


def _check_measure(args: argparse.Namespace) -> None:
    if args.measure is None:
        return
    check_range("--measure", args.measure, 2, args.top)
    if args.cluster != "here":
        raise UsageError(f"--measure: only this machine can be measured, not {args.cluster}; leave one of them out")
    if args.without_checkpoint:
        raise UsageError("--measure: a model without a checkpoint cannot be run; leave one of them out")


def _words(args: argparse.Namespace) -> list[str]:
    """The model and the engine's options, as they were given."""
    flags = {setting.name: setting.option.flags[0] for setting in engine_settings()}
    words = [args.model] if args.model is not None else []
    words += ["--revision", args.revision] if args.revision is not None else []
    given: Mapping[str, GivenValue] = args.engine_given
    for name, entry in given.items():
        if isinstance(entry.value, bool):
            words.append(flags[name] if entry.value else "--no-" + flags[name].removeprefix("--"))
        else:
            words += [flags[name], str(entry.value)]
    return words


def _plan(
    args: argparse.Namespace,
    config: ModelConfig,
    cluster: Cluster,
    goal: Goal,
    rules: SearchRules,
    engine: EngineConfig,
) -> tuple[LayoutPlan, Room]:
    # ranks whose steps run in C++ exchange only their largest logits
    programs = cluster.shared and not engine.enforce_eager and engine.dtype in ("bfloat16", "float32")
    space = search(config, cluster, goal, rules, programs)
    room = room_here(space.explained, engine) if cluster.shared else room_by_explain(space.explained)
    return make_plan(space, room, args.top), room


def _rules(args: argparse.Namespace, cluster: Cluster, config: ModelConfig, goal: Goal) -> SearchRules:
    pins, most = (read_sizes(flag, words) for flag, words in (("--pin", args.pin), ("--max", args.max)))
    check_pins(pins, most, cluster.devices)
    for name in (*pins, *most):
        if name.startswith(("experts.", "shared_experts.")) and config.moe is None:
            raise ConfigError(f"{name}: the model has no experts; leave it out", field=name)
    return SearchRules(cluster.devices, pins, most, _least_ranks(config, cluster, goal), goal.context)


def _least_ranks(config: ModelConfig, cluster: Cluster, goal: Goal) -> int:
    """Devices that hold the weights of one copy."""
    one = resolve_for(config, {})
    shards = Shards(config, one, storage=goal.load.storage)
    held = sum(shards.bytes(0, goal.load.itemsize).values())
    return -(-held // cluster.budget(cluster.devices))


def _goal(args: argparse.Namespace, config: ModelConfig, engine: EngineConfig, storage: WeightStorage) -> Goal:
    streams, prompt, answer = args.streams, args.prompt, args.answer
    if (args.context is None) != (args.requests is None):
        raise UsageError("--context and --requests belong together: give both, or --streams, --in and --out")
    if args.context is not None:
        if streams is not None or prompt is not None:
            raise UsageError("--context and --requests stand for --streams and --in: leave those out")
        check_range("--requests", args.requests, 1, 1 << 30)
        answer = 64 if answer is None else answer
        check_range("--context", args.context, answer + 1, config.longest_position)
        streams, prompt = args.requests, args.context - answer
    named = with_step_tokens(engine, resolve_for(config, {}))
    load = StepLoad(named.tokens_per_step, engine.max_num_seqs, DTYPE_BYTES[engine.dtype], storage)
    streams, prompt, answer = (
        default if value is None else value for value, default in ((streams, 8), (prompt, 128), (answer, 64))
    )
    return Goal(streams, prompt, answer, load, block_size_of(engine, engine.dtype, config), _seconds(args.tpot))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"tpot {text}: a time above 0 is wanted, as 50ms or 0.05s", field="tpot", value=text)
    return float(match[1]) * _UNITS[match[2]]


def _stated(args: argparse.Namespace, config: ModelConfig) -> Layout | None:
    """Of --layout, or from the words of another engine."""
    given = getattr(args, "dialect_given", {})
    if args.layout is not None and given:
        raise UsageError("--layout and the words after -- both say a layout; leave one out")
    if args.layout is None and args.foreign is None:
        return None
    layout = resolve_for(config, load_given(args.layout) if args.layout is not None else given)
    check_fit(layout, config)
    return layout


def _ranked(found: LayoutPlan, layout: Layout, room: Room) -> Ranked | None:
    ranked = stated_layout(found.space.explained, layout, room)
    if isinstance(ranked, int):
        _say(f"what was given does not fit: {binary(ranked)} are missing")
        return None
    if layout.pipeline.layers is not None:
        _say("what was given has stages of its own numbers of layers; it is counted with even ones")
    return ranked


def _nothing(
    args: argparse.Namespace,
    config: ModelConfig,
    cluster: Cluster,
    goal: Goal,
    rules: SearchRules,
    engine: EngineConfig,
    found: LayoutPlan,
) -> int:
    """What is missing, and with how many devices something would fit."""
    if not found.space.looked:
        raise ConfigError(
            f"no layout of {cluster.devices} devices has these sizes: {', '.join((*args.pin, *args.max)) or 'none'}",
            field="--pin",
        )
    _say(f"nothing fits {cluster.name}: {found.space.unfit:,} layouts were tried")
    for candidate, missing in found.misses[:NEAREST]:
        _say(f"  {axes(candidate)}: {binary(missing)} are missing on the tightest rank")
    if found.misses and not cluster.shared:
        for line in fit_lines(smallest_change(found.space.explained, found.misses[0][0])):
            _say(f"  {line}")
    if not cluster.shared:
        for times in range(1, MOST_DOUBLED + 1):
            larger = replace(cluster, devices=cluster.devices << times)
            more, _ = _plan(args, config, larger, goal, replace(rules, devices=larger.devices), engine)
            if more.leaders:
                _say(f"{more.leaders[0].candidate.world} devices would do")
                break
    return 1


def _missed(found: LayoutPlan) -> None:
    goal, best = found.space.explained.goal, found.leaders[0].times.step
    if goal.tpot is not None and best > goal.tpot:
        _say(f"no layout keeps {goal.tpot * 1e3:g} ms a token; the nearest takes {best * 1e3:.2f}")


def _write(target: str, layout: Layout, name: str) -> None:
    """A dialect's words on stdout, or the layout's document into a file."""
    if target not in names():
        try:
            Path(target).write_text(to_yaml(layout), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--write {target}: {error.strerror}") from None
        return
    written = write(layout, target, {"model": name})
    print(written.text)
    for note in written.notes:
        _say(f"{note.level}: {note.message}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
