"""Which host this is, from the variables that torchrun or Slurm's srun give each process that they start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weft.base.errors import ConfigError, UsageError
from weft.runtime.launchers.slurm_nodes import expanded

PORT = 25000
"""Where hosts meet if --dist-init-addr does not say it. torchrun's own store has MASTER_PORT."""
_ONE_AGENT = "weft has one process a node, which starts the ranks that the layout has there: give"


@dataclass(frozen=True, slots=True)
class Variable:
    """What a variable of the environment says. `name`: with the launcher's, for people."""

    name: str
    value: int | str


@dataclass(frozen=True, slots=True)
class HostPlacement:
    """This host's place as its launcher says it. `head`: name or address of host 0."""

    launcher: str
    nnodes: Variable
    node_rank: Variable
    head: Variable

    @property
    def address(self) -> Variable:
        """Where hosts meet."""
        host = f"[{self.head.value}]" if ":" in str(self.head.value) else self.head.value
        return Variable(self.head.name, f"{host}:{PORT}")


def placement(environ: Mapping[str, str]) -> HostPlacement | None:
    """None: no launcher has started this process on a host of several, or it was started by a person in a job's shell.
    UsageError: the launcher starts several processes a node. ConfigError: a variable is missing or no number."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return _of_torchrun(environ)
    if environ.get("WORLD_SIZE", "1") not in ("", "1") and "LOCAL_RANK" in environ:
        raise UsageError(
            f"WORLD_SIZE is {environ['WORLD_SIZE']}, and not torchrun has set it: {_ONE_AGENT} --nnodes and --node-rank"
            " on each host, or start it with torchrun"
        )
    return _of_slurm(environ) if "SLURM_STEP_ID" in environ else None


def _of_torchrun(environ: Mapping[str, str]) -> HostPlacement:
    variables = _Variables("torchrun", environ)
    local = variables.number("LOCAL_WORLD_SIZE")
    if local.value != 1:
        raise UsageError(f"torchrun starts {local.value} processes on each node: {_ONE_AGENT} --nproc-per-node 1")
    nnodes, rank = variables.number("GROUP_WORLD_SIZE"), variables.number("GROUP_RANK")
    return HostPlacement("torchrun", nnodes, rank, variables.word("MASTER_ADDR"))


def _of_slurm(environ: Mapping[str, str]) -> HostPlacement | None:
    """A step of one node is no placement: a person may start hosts by hand, each in a step's shell."""
    variables = _Variables("srun", environ)
    nnodes = variables.number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    tasks = variables.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS", default=str(nnodes.value))
    if tasks.value != nnodes.value:
        raise UsageError(
            f"srun starts {tasks.value} tasks on {nnodes.value} nodes ({tasks.name}): {_ONE_AGENT} --ntasks-per-node 1"
        )
    if nnodes.value == 1:
        return None
    listed = variables.word("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = expanded(str(listed.value))
    if len(nodes) != nnodes.value:
        message = f"{listed.name} has {len(nodes)} nodes ({listed.value}), but {nnodes.name} says {nnodes.value}"
        raise ConfigError(message, field="nnodes", value=nnodes.value)
    return HostPlacement("srun", nnodes, variables.number("SLURM_NODEID"), Variable(listed.name, nodes[0]))


@dataclass(frozen=True, slots=True)
class _Variables:
    launcher: str
    environ: Mapping[str, str]

    def word(self, *names: str, default: str | None = None) -> Variable:
        """Of the first name that is set. ConfigError: none is."""
        for name in names:
            if self.environ.get(name):
                return Variable(f"{self.launcher}'s {name}", self.environ[name])
        if default is None:
            message = f"{self.launcher} started this process, but its variable {' or '.join(names)} is not set"
            raise ConfigError(message, field=names[0])
        return Variable(f"{self.launcher}'s {names[0]}", default)

    def number(self, *names: str, default: str | None = None) -> Variable:
        """The same, of a whole number. ConfigError also: it is none."""
        found = self.word(*names, default=default)
        text = str(found.value)
        if not (text.isascii() and text.isdecimal()):
            raise ConfigError(f"{found.name} {text}: not a whole number", field=names[0], value=text)
        return Variable(found.name, int(text))
