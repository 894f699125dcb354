"""weft beside other CPU engines, on the same weights and the same token ids, one engine at a time, in turn.

    benchmarks/peers/run                        the main table: about 20 minutes on two cores, once everything is set up
    benchmarks/peers/run --setup                environments, tools and model files only (about 10 GB in the cache)
    benchmarks/peers/run --quick                does every driver work, do the ids agree; no figures to cite
    benchmarks/peers/run --cases long streams64 streams256 http64 http256 --resume
    benchmarks/peers/run --form llama-1b --engines weft-tp1 weft-tp2 llama.cpp-bf16 openvino-bf16 --cases offline
    benchmarks/peers/run --show                 the table of what was measured, again

Writes benchmarks/results/peers*.json after every visit of an engine, and *.md and *.png at the end. Run it on a quiet
machine: a visit in which a hypervisor gave much of the cores' time to others is made again; the page says how often.
Engines that cannot be set up, or refuse what is asked, are left out and named with the reason.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.about import about, command
from benchmarks.common.command import result_file, run_command, whole
from benchmarks.peers import cases as case_table
from benchmarks.peers import engines as engine_table
from benchmarks.peers.install import NotInstalled, install
from benchmarks.peers.models import EMBEDDED, FORMS, Models
from benchmarks.peers.places import ROOT, Places
from benchmarks.peers.probe import Probe, stolen_s
from benchmarks.peers.prompts import prompts
from benchmarks.peers.report.picture import draw
from benchmarks.peers.report.summary import rows
from benchmarks.peers.report.table import page
from benchmarks.peers.schedule import MOST_STOLEN, Record, Visit, least_disturbed, read, to_do
from benchmarks.peers.visits import Visitor
from weft.engine.text import Tokenizer
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import cache_dir, embedded_model


def main() -> int:
    """0; 2 for a wrong word."""
    parser = argparse.ArgumentParser(
        "benchmarks/peers/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", default=["main"], metavar="NAME", help="by name, by package, or main")
    parser.add_argument(
        "--cases", nargs="+", default=["main"], metavar="NAME", help="by name or group (main, long, ...)"
    )
    parser.add_argument("--rounds", type=whole, default=3, help="visits of each engine (default 3)")
    parser.add_argument("--bursts", type=whole, default=2, help="of each served case in a visit (default 2)")
    parser.add_argument("--form", choices=FORMS, default=EMBEDDED, help="the model (default: the embedded one)")
    parser.add_argument("--quick", action="store_true", help="one round, few tokens, saved in the cache")
    parser.add_argument("--resume", action="store_true", help="keep what the results file has, measure what it lacks")
    parser.add_argument("--setup", action="store_true", help="set up and make model files, measure nothing")
    parser.add_argument("--show", action="store_true", help="print and draw the results file, measure nothing")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "peers", metavar="DIR")
    parser.add_argument("--out", type=result_file, metavar="FILE.json", help="default: results/peers[-FORM].json here")
    arguments = parser.parse_args()
    try:
        engines = engine_table.chosen(arguments.engines)
        cases = case_table.chosen(arguments.cases)
    except ValueError as error:
        parser.error(str(error))
    places = Places(arguments.cache.absolute(), arguments.form, tuple(sorted(os.sched_getaffinity(0))))
    out = arguments.out or _out(arguments, places)
    if arguments.quick:
        arguments.rounds, arguments.bursts, cases = 1, 1, tuple(case.quick() for case in cases)
    if not arguments.show:
        ready, missing = set_up(engines, places)
        if not arguments.setup:
            measure(arguments, ready, missing, cases, places, out)
    if not arguments.setup:
        show(out, places)
    return 0


def _out(arguments: argparse.Namespace, places: Places) -> Path:
    form = "" if arguments.form == EMBEDDED else f"-{arguments.form}"
    return places.cache / f"quick{form}.json" if arguments.quick else ROOT / "benchmarks/results" / f"peers{form}.json"


Engines = Sequence[engine_table.Engine]


def set_up(engines: Engines, places: Places) -> tuple[Engines, dict[str, str]]:
    """Engines that can run, and why the others cannot."""
    models = Models(places, embedded_model())
    models.make("directory")
    ready, missing = [], {}
    for engine in engines:
        try:
            if not engine.ours:
                install(engine.peer, places)
            models.make(engine.model)
            ready.append(engine)
        except NotInstalled as error:
            missing[engine.name] = str(error)
            print(f"{engine.name}: {error}", file=sys.stderr)
    return ready, missing


def measure(
    arguments: argparse.Namespace,
    engines: Engines,
    missing: dict[str, str],
    cases: tuple[case_table.Case, ...],
    places: Places,
    out: Path,
) -> None:
    """Makes every visit that is not in the results file yet; the file is whole after each."""
    head = {
        "form": arguments.form,
        "about": _about(out if arguments.resume else None),
        "threads": len(places.cores),
        "made_again": read(out).get("made_again", 0) if arguments.resume and out.exists() else 0,
    }
    record = Record(out, head, arguments.resume)
    for name, reason in missing.items():
        record.add({"engine": name, "kind": "offline", "round": 0, "seconds": 0, "cases": {}, "error": reason})
    planned = list(to_do(engines, cases, arguments.rounds, record))
    with Probe(places.cache) as probe:
        visitor = Visitor(places, _prompts(places), probe, arguments.bursts)
        for number, visit in enumerate(planned):
            left = sum(map(record.usual_s, planned[number:])) / 60
            print(f"{number + 1}/{len(planned)}, about {left:.0f} min left: {_name(visit)}", flush=True)
            found, others = least_disturbed(functools.partial(_visit, visitor, visit))
            record.head["made_again"] += others
            record.add(found)


def _about(resumed: Path | None) -> dict[str, Any]:
    """`resumed`: the file that is gone on with, whose commands stand before this one."""
    typed = command("benchmarks/peers/run")
    before = read(resumed)["about"]["command"].split("; ") if resumed is not None and resumed.exists() else []
    return about() | {"command": "; ".join(dict.fromkeys([*before, typed]))}


def _prompts(places: Places) -> Any:
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(places.models / "directory"))
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    return functools.lru_cache(lambda count, length: prompts(encode, count, length))


def _visit(visitor: Visitor, visit: Visit) -> dict[str, Any]:
    began, stolen = time.time(), stolen_s()
    found = getattr(visitor, visit.kind)(visit.engine, visit.cases)
    took = time.time() - began
    stolen = (stolen_s() - stolen) / (took * (os.cpu_count() or 1))
    place = {"engine": visit.engine.name, "kind": visit.kind, "round": visit.round, "began": round(began)}
    if visit.round:  # one text is enough to compare
        found.pop("ids", None)
    made = {**place, "seconds": round(took, 1), "stolen": round(stolen, 4), **found}
    _tell(made)
    return made


def _name(visit: Visit) -> str:
    return f"{visit.engine.name} {visit.kind}, round {visit.round + 1}"


def _tell(visit: dict[str, Any]) -> None:
    """A line of what came out."""
    words = []
    for case, found in visit["cases"].items():
        for sample in found.get("bursts", [found])[:1]:
            figure = next((sample[key] for key in ("decode", "prefill", "output") if key in sample), None)
            words.append(f"{case} {figure:.0f}" if figure is not None else f"{case} failed")
    problem = visit.get("refused") or visit.get("error")
    stolen = f"  {visit['stolen']:.0%} of the cores' time was others'" if visit["stolen"] > MOST_STOLEN else ""
    print(f"    {visit['seconds']:.0f} s: {', '.join(words)}{f'  {problem}' if problem else ''}{stolen}", flush=True)


def show(out: Path, places: Places) -> None:
    """Prints the page and writes it and the picture beside the results."""
    document = read(out)
    found = rows(document["visits"], places.shape())
    title = f"weft beside other CPU engines, {document['form']}"
    git = document["about"].pop("git", None) or document.get("git") or {}  # beside it in older files
    about = {**document["about"], "threads": document["threads"], "commit": git.get("commit")}
    if document.get("made_again"):
        why = f"more than {MOST_STOLEN:.0%} of the cores' time was others'"
        about["visits made again"] = f"{document['made_again']}, for {why}"
    text = page(title, about, found, places.shape())
    print(text)
    out.with_suffix(".md").write_text(text)
    draw(title, found, out.with_suffix(".png"))


if __name__ == "__main__":
    run_command(main)
