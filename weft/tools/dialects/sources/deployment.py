"""The deployment around commands: a job's nodes and variables, launchers, copies, and readings over nodes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.tools.dialects.base import Diagnostic, Reading, Where, Word
from weft.tools.dialects.report import on_nodes
from weft.tools.dialects.sizes import divides, whole_number

_DIRECTIVE = re.compile(r"(?m)^[ \t]*#SBATCH[ \t]+(--[\w-]+|-\w)(?:[ \t=]*)(\d+)(?:-\d+)?[ \t]*(?:#[^\n]*)?$")
NODE_VARIABLES = ("SLURM_NNODES", "SLURM_JOB_NUM_NODES")
"""What the commands of a job see as the number of its nodes."""
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "--nodes": NODE_VARIABLES,
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


def copies_note(count: int, where: Where) -> Diagnostic:
    """So many engines of a kind, which do not know of each other."""
    message = f"{count} copies of this engine are started, each of its own; this is the layout of one"
    return Diagnostic("info", "copies", message, where)


def launch_nodes(wrapper: Sequence[Word]) -> int | None:
    """Nodes that the words in front of a command spread it over: mpirun -H a:8,b:8, srun -N 2."""
    words = [word.text for word in wrapper]
    slurm = any(re.fullmatch(r"(?:.*/)?(?:srun|salloc)", word) for word in words)
    for word, value in itertools.pairwise([*(part for each in words for part in _parted(each)), ""]):
        if word in ("-H", "--host", "-host") and re.fullmatch(r"[^,\s]+(?:,[^,\s]+)+", value):
            return len({host.partition(":")[0] for host in value.split(",")})
        if slurm and word in ("-N", "--nodes") and re.fullmatch(r"[1-9]\d{0,5}", value):
            return int(value)
    return None


def _parted(word: str) -> list[str]:
    """A flag with = as two words."""
    return word.split("=", 1) if word.startswith("--") else [word]


def job_nodes(text: str) -> int | None:
    """Nodes that a batch job asks for."""
    word = job_variables(text).get("SLURM_NNODES")
    return (whole_number(word.text) or None) if word is not None else None


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
        return reading.noted(Diagnostic("warning", "nodes-uneven", message, reading.place))
    note = Diagnostic("info", "derived", f"nodes {nodes}: by what surrounds the command", reading.place)
    return on_nodes(reading, nodes).noted(note)
