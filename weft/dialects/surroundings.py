"""What stands around commands: the nodes of a job, its variables, and the readings that follow. Knows no engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from weft.dialects.base import Note, Reading, Where, Word
from weft.dialects.report import on_nodes
from weft.dialects.sizes import divides

_DIRECTIVE = re.compile(r"(?m)^[ \t]*#SBATCH[ \t]+(--[\w-]+|-\w)(?:[ \t=]*)(\d+)(?:-\d+)?[ \t]*(?:#[^\n]*)?$")
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "--nodes": ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "--ntasks": ("SLURM_NTASKS", "SLURM_NPROCS"),
    "--ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
    "--gpus-per-node": ("SLURM_GPUS_PER_NODE",),
}
"""Directives of a batch job -> the variables that its commands see."""
_SHORT = {"-N": "--nodes", "-n": "--ntasks"}


def job_variables(text: str) -> dict[str, Word]:
    """Variables that the directives of a batch job set."""
    found = {}
    for match in _DIRECTIVE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        for name in _VARIABLES.get(_SHORT.get(match[1], match[1]), ()):
            found[name] = Word(match[2], Where(line, 1, match[0].strip()))
    return found


def job_nodes(text: str) -> int | None:
    """Nodes that a batch job asks for."""
    word = job_variables(text).get("SLURM_NNODES")
    return int(word.text) if word is not None and int(word.text) > 0 else None


def spread(reading: Reading, nodes: int | None) -> Reading:
    """The reading over so many nodes, where its own words say nothing about nodes and its ranks fill them evenly."""
    sizes = reading.sizes
    if nodes in (None, 1) or sizes is None or reading.refused is not None or sizes.nodes != 1:
        return reading
    assert nodes is not None
    if sizes.world is None:
        return replace(reading, sizes=replace(sizes, nodes=nodes))
    if not divides(nodes, sizes.world):
        message = f"what surrounds the command asks for {nodes} nodes, over which {sizes.world} ranks are not even"
        return reading.noted(Note("warning", "nodes-uneven", message, reading.place))
    note = Note("info", "derived", f"nodes {nodes}: by what surrounds the command", reading.place)
    return on_nodes(reading, nodes).noted(note)
