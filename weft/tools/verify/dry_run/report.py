"""A dry run as lines of text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from weft.base.plural import counted
from weft.parallel.arch.quantization import WeightStorage
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.ranks import describe
from weft.tools.explain.notes import LayoutNote
from weft.tools.explain.units import binary, storage_words
from weft.tools.verify.dry_run.run import Collective, DryRun

SHOWN = 6


def document(
    found: DryRun, storage: WeightStorage, notes: Sequence[LayoutNote] = (), method: str = ""
) -> dict[str, Any]:
    """The stable JSON form. `method`: of a checkpoint that is quantized. Bytes; a collective's are what this rank
    receives in one call: of routed rows where choices are even, and at the most."""
    return {
        "schema": "weft.dry-run/3",
        "rank": found.rank,
        "coords": asdict(found.coords),
        "batch": found.batch,
        "prompt_rows": found.prompt_rows,
        "quantization": method or storage.quantization,
        "compressed": storage.compressed,
        "param_bytes": found.param_bytes,
        "params_by_module": dict(found.params_by_module),
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "activation_peak_bytes": found.activation_peak,
        "collectives": [
            {
                "kind": c.kind,
                "ranks": list(c.ranks),
                "bytes": c.nbytes,
                "most_bytes": c.most,
                "calls": c.calls,
                "where": c.where,
            }
            for c in found.collectives
        ],
        "notes": [asdict(note) for note in notes],
    }


def lines(name: str, shards: Shards, dtype: str, found: DryRun, notes: Sequence[LayoutNote] = ()) -> Iterator[str]:
    """What the rank holds, then what it exchanges in one decode step, then what that leaves open."""
    held = f"{describe(shards.layout, found.rank)} of {shards.layout.world}"
    yield f"{name}, {dtype}{storage_words(shards.storage, shards.config.quantization)}: {held}"
    yield f"  parameters {binary(found.param_bytes)}, KV {binary(found.kv_bytes_per_token)} a token"
    for module, nbytes in found.params_by_module.items():
        yield f"    {module:<15}{binary(nbytes):>12}"
    peak = binary(found.activation_peak)
    what = f"a prompt's first {counted(found.prompt_rows, 'row')}" if found.prompt_rows else ""
    step = f"one step, {what}" if what else f"one decode step, {counted(found.batch, 'row')}"
    yield f"  {step} in every dp group: activations peak at {peak}"
    for collective in found.collectives:
        yield f"    {_line(collective)}"
    total = sum(c.nbytes * c.calls for c in found.collectives)
    yield f"  received in a step: {binary(total)} in {sum(c.calls for c in found.collectives)} collectives"
    for note in notes:
        yield f"{'!' if note.level == 'warning' else ' '} {note.message}"


def _line(c: Collective) -> str:
    ranks = " ".join(map(str, c.ranks[:SHOWN])) + (f" ... {c.ranks[-1]}" if len(c.ranks) > SHOWN else "")
    most = f" (even choices; at most {binary(c.most)})" if c.most != c.nbytes else ""
    most = most or ("" if c.nbytes else " (no row comes to this rank)")
    return f"{c.where:<20}{c.kind:<16}{c.calls:>4} x {binary(c.nbytes):>10}{most}  {len(c.ranks)} ranks: {ranks}"
