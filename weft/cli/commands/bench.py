"""`weft bench`: time to first token, time per token and throughput, of a model or of any OpenAI-compatible server.

Exit code 0: every request was answered whole; 1: some were not; 69: the server cannot be reached, or answers nothing
of the warm-up. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from weft.base.errors import ConfigError, UsageError
from weft.base.options import made
from weft.base.printable import printable_lines
from weft.base.settings import engine_settings
from weft.cli.args.checkpoints import opened
from weft.cli.args.flags import GivenValue, add_flags, values_of
from weft.cli.args.hosts import add_hosts_arguments, hosts_from, is_agent, run_agent
from weft.cli.args.model import add_model_arguments, engine_config_from, layout_from
from weft.cli.args.parser import Expert
from weft.cli.args.ranks import add_comm_argument
from weft.cli.hosted import PROGRAM
from weft.cli.view.bench import bench_view
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.hub.paths import model_path, shown_name
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.serialize import load_given
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.tools.bench.client import BenchTarget
from weft.tools.bench.compare import memory_of, rows
from weft.tools.bench.document import Candidate, Subject, comparison, document
from weft.tools.bench.plot import check_plot, save_plot
from weft.tools.bench.probe import ask_server, base_url
from weft.tools.bench.session import Host, Measurement, compare_layouts, in_repetitions, measure, measure_served
from weft.tools.bench.settings import BenchSettings, bench_options
from weft.tools.bench.tables import notes, print_comparison, print_memory, print_runs
from weft.tools.bench.workload import Workload

COMPARE_REPEAT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL with layout and engine options as for serve, or --url; the workload; where results go."""
    add_model_arguments(parser)
    add_comm_argument(parser)
    add_hosts_arguments(parser)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--url", metavar="URL", help="a server that runs already: http://HOST:PORT")
    group.add_argument(
        "--compare", nargs="+", type=Path, metavar="FILE",
        help=f"layout documents, each against the first, in turns (--repeat is {COMPARE_REPEAT} then)",
    )  # fmt: skip
    group.add_argument(
        "--tokenizer", metavar="MODEL", help="with --url: the model whose vocabulary gives prompts of exact length"
    )
    group.add_argument("--api-key", metavar="KEY", help=Expert("with --url: the server's key (also OPENAI_API_KEY)"))
    group = parser.add_argument_group("workload")
    group.add_argument(
        "--request-rate", type=_rates, metavar="X,X,...",
        help="new requests per second, Poisson arrivals, one run for each; inf: all at once",
    )  # fmt: skip
    add_flags(group, bench_options(), "bench_given")
    group = parser.add_argument_group("results")
    group.add_argument("--json", action="store_true", help="print JSON, schema weft.bench/1, instead of tables")
    group.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .png, .svg or .pdf (needs matplotlib)")


def _rates(word: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in word.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(rate > 0 for rate in rates):
        raise argparse.ArgumentTypeError(f"{word!r} is not a list of numbers above 0, or inf")
    return rates


def run(args: argparse.Namespace) -> int:
    """0, or 1 where a request failed; errors are raised."""
    settings = _settings(args)
    _check_places(args)
    if args.url is not None:
        return _bench_url(args, settings)
    if args.tokenizer is not None or args.api_key is not None:
        raise UsageError(f"{'--tokenizer' if args.tokenizer is not None else '--api-key'}: only with --url")
    checkpoint = opened(args, args.model, _say)
    if args.compare:
        return _bench_layouts(args, settings, checkpoint)
    config = checkpoint.model_config()
    layout = layout_from(args, config)
    if is_agent(args):
        return run_agent(args, layout, engine_config_from(args), checkpoint, _say)
    hosts_from(args).check(layout)
    if layout.nodes > 1:
        return _bench_hosts(args, settings, checkpoint, layout)
    return _bench_model(args, settings, checkpoint, layout)


def _settings(args: argparse.Namespace) -> BenchSettings:
    values = {"request_rate": args.request_rate, **values_of(args.bench_given)}
    settings = made(BenchSettings, {"repeat": COMPARE_REPEAT, **values} if args.compare else values)
    for name in settings.unused:
        if name in args.bench_given:
            flag = args.bench_given[name].flag
            raise UsageError(f"{flag}: without effect on --workload {settings.workload}; leave it out")
    return settings


def _check_places(args: argparse.Namespace) -> None:
    """Whether results can be written: known before the measurement, not after it."""
    if args.plot is not None:
        check_plot(args.plot)
    if args.save is not None:
        folder = args.save.absolute().parent
        if args.save.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"save {args.save}: not a place for a file", field="save", value=str(args.save))


def _bench_url(args: argparse.Namespace, settings: BenchSettings) -> int:
    _refuse_with_url(args)
    given: Mapping[str, GivenValue] = args.engine_given
    entry = given.get("served_model_name")
    key = args.api_key or os.environ.get("OPENAI_API_KEY") or None
    url = base_url(args.url)
    workload = _url_workload(args.tokenizer, settings)
    server = ask_server(url, key, None if entry is None else str(entry.value))
    target = BenchTarget(url, str(server["model"]), key)
    with bench_view() as view:
        found = in_repetitions(lambda repeats: measure(target, workload, view, target.model, repeats), settings.repeat)
    return _report(args, settings, Subject(target.model, url=url, server=server), found)


def _refuse_with_url(args: argparse.Namespace) -> None:
    """--url names a server with its own model and layout: options that would be without effect are refused."""
    every = {**args.layout_given, **args.engine_given, **args.hosts_given, **args.limits_given}
    given = {entry.flag for name, entry in every.items() if name != "served_model_name"}
    for name in ("layout", "tp", "world_size", "compare", "model", "revision"):
        if getattr(args, name) is not None:
            given.add("MODEL" if name == "model" else "--" + name.replace("_", "-"))
    given |= {f"--{name.replace('_', '-')}" for name in ("comm", "verify_checkpoint") if getattr(args, name) != "auto"}
    if given:
        raise UsageError(f"--url: that server has its model and its layout; leave {', '.join(sorted(given))} out")


def _url_workload(word: str | None, settings: BenchSettings) -> Workload:
    if word is None:
        return Workload(settings)
    checkpoint = open_checkpoint(model_path(word, _say))
    return Workload(settings, Tokenizer.from_checkpoint(checkpoint), checkpoint.model_config().vocab_size)


def _bench_model(args: argparse.Namespace, settings: BenchSettings, checkpoint: Checkpoint, layout: Layout) -> int:
    plan = plan_launch(checkpoint, layout, engine_config_from(args), args.comm)
    _hint(plan)
    workload = Workload(settings, Tokenizer.from_checkpoint(checkpoint), plan.config.vocab_size)
    _check_length(workload, plan)
    host = _host(args, checkpoint)
    with bench_view() as view:
        found = in_repetitions(
            lambda repeats: measure_served(host, checkpoint.path, layout, workload, view, host.model, repeats),
            settings.repeat,
        )
    return _report(args, settings, Subject(host.model, plan=plan), found)


def _bench_hosts(args: argparse.Namespace, settings: BenchSettings, checkpoint: Checkpoint, layout: Layout) -> int:
    """On host 0 of several: the server plans with what each host has, and says how long a context is."""
    workload = Workload(settings, Tokenizer.from_checkpoint(checkpoint), checkpoint.model_config().vocab_size)
    host, said = _host(args, checkpoint), dict[str, object]()

    def ready(url: str) -> None:
        said.update(ask_server(url, None, host.model))
        if isinstance(longest := said["max_model_len"], int):
            workload.check_length(longest)

    with bench_view() as view:
        found = in_repetitions(
            lambda repeats: measure_served(host, checkpoint.path, layout, workload, view, host.model, repeats, ready),
            settings.repeat,
        )
    return _report(args, settings, Subject(host.model, server=said, layout=layout), found)


def _check_length(workload: Workload, plan: LaunchPlan) -> None:
    """Whether requests have room in the context; where only a device knows it, the server says so."""
    if plan.engine.max_model_len is not None:
        workload.check_length(plan.engine.max_model_len)


def _report(args: argparse.Namespace, settings: BenchSettings, subject: Subject, found: Sequence[Measurement]) -> int:
    summaries = [summary for _, summary in found]
    _write(args, document(_command(), settings, subject, found))
    if args.plot is not None:
        save_plot(args.plot, subject.name, {subject.name: summaries})
    if not args.json:
        print_runs(_console(), summaries)
    return 1 if any(summary.failed for summary in summaries) else 0


def _bench_layouts(args: argparse.Namespace, settings: BenchSettings, checkpoint: Checkpoint) -> int:
    """--compare."""
    plans, host = _plans(args, checkpoint), _host(args, checkpoint)
    first = next(iter(plans.values()))
    _hint(first)
    workload = Workload(settings, Tokenizer.from_checkpoint(checkpoint), first.config.vocab_size)
    for plan in plans.values():
        _check_length(workload, plan)
    candidates = [
        Candidate(Subject(name, plan=plan), str(path), memory_of(plan.shards, plan.engine.dtype))
        for (name, plan), path in zip(plans.items(), args.compare, strict=True)
    ]
    if not args.json:
        print_memory(_console(), candidates)
    with bench_view() as view:
        found = compare_layouts(host, plans, workload, view)
    summaries = {name: [summary for _, summary in many] for name, many in found.items()}
    table = rows(list(plans), summaries)
    _write(args, comparison(_command(), settings, candidates, table, found))
    if args.plot is not None:
        save_plot(args.plot, host.model, summaries)
    if not args.json:
        print_comparison(_console(), list(plans), table)
        print("\n".join(notes([summary for many in summaries.values() for summary in many])))
    return 1 if any(row.failed for row in table) else 0


def _plans(args: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, LaunchPlan]:
    """A plan for each layout file, by its name; each is checked before anything starts."""
    flags = {entry.flag for entry in {**args.layout_given, **args.hosts_given}.values()}
    sizes = ("layout", "tp", "world_size")
    flags |= {"--" + name.replace("_", "-") for name in sizes if getattr(args, name) is not None}
    if flags:
        given = ", ".join(sorted(flags))
        raise UsageError(f"--compare: its files are the layouts, of one host each; leave {given} out")
    if len(args.compare) < 2:
        raise UsageError(f"--compare {args.compare[0]}: at least two layouts are needed")
    engine, experts = engine_config_from(args), checkpoint.model_config().num_experts
    plans: dict[str, LaunchPlan] = {}
    for path in args.compare:
        name, number = path.stem, 2
        while name in plans:
            name, number = f"{path.stem} ({number})", number + 1
        layout = resolve(load_given(path), num_experts=experts)
        if layout.nodes > 1:
            raise UsageError(f"--compare {path}: its layout has {layout.nodes} hosts; measure it in a run of its own")
        plans[name] = plan_launch(checkpoint, layout, engine, args.comm)
    return plans


def _host(args: argparse.Namespace, checkpoint: Checkpoint) -> Host:
    """How to start the server: the engine's options as they were given."""
    flags = {setting.name: setting.option.flags[0] for setting in engine_settings()}
    given: Mapping[str, GivenValue] = args.engine_given
    words: list[str] = ["--comm", args.comm, "--verify-checkpoint", args.verify_checkpoint]
    for entry in (*args.hosts_given.values(), *args.limits_given.values()):
        words += [entry.flag, str(entry.value)]
    model = shown_name(args.model, checkpoint.path)
    for name, entry in given.items():
        if name == "served_model_name":
            model = engine_config_from(args).served_names[0]
        elif isinstance(entry.value, bool):
            words.append(flags[name] if entry.value else "--no-" + flags[name].removeprefix("--"))
        else:
            words += [flags[name], str(entry.value)]
    return Host(PROGRAM, model, words)


def _write(args: argparse.Namespace, content: dict[str, object]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if args.save is not None:
        args.save.write_text(text + "\n", encoding="utf-8")
    if args.json:
        print(text)


def _command() -> list[str]:
    return ["weft", *sys.argv[1:]]


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=200)


def _hint(plan: LaunchPlan) -> None:
    for hint in plan.hints():
        _say(hint)


def _say(line: str) -> None:
    print(printable_lines(line), file=sys.stderr, flush=True)
