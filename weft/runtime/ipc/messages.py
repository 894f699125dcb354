"""The messages of supervisor and ranks: two closed unions of tagged records in msgpack.

A frame that is not one of these records is a fault of the peer, never something to guess about.
"""

from __future__ import annotations

import msgspec

from weft.base.deaths import Death
from weft.base.errors import (
    CheckpointError,
    ConfigError,
    DeadlockError,
    LayoutError,
    MismatchError,
    PeerError,
    WeftError,
)
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupResult, RankPlan
from weft.base.step.vocabulary import Vocabulary
from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.layout import Layout
from weft.runtime.ipc.phases import Phase


class WorldSetup(msgspec.Struct, frozen=True):
    """What all ranks of a replica have in common, on whatever host: sizes and settings, no path and no variable.

    `comm`: name of the comm backend. `where`: each rank's number and coordinates among the ranks of all replicas, for
    people. `first_rank`: number there of this replica's rank 0. `start`: how many sets of ranks this replica has had
    before. `host_of`: the host of each rank; `ranks_per_host`: of all replicas.
    `slot_maps`: layer, and the expert of every slot in it, where experts are
    not assigned in order. `staged_slots`: expert slots of a layer that a rank can receive before the layer switches.
    `isa`: the variant of the step library that all hosts run, where they differ; else empty. `vocabulary`: for the
    grammars of requests.
    """

    layout: Layout
    config: ModelConfig
    engine: EngineConfig
    eos_token_ids: tuple[int, ...]
    comm: str
    comm_limit_s: float
    join_limit_s: float
    where: tuple[str, ...]
    host_of: tuple[int, ...]
    ranks_per_host: int
    comm_debug: bool = False
    first_rank: int = 0
    start: int = 0
    slot_maps: tuple[tuple[int, tuple[int, ...]], ...] = ()
    staged_slots: int = 0
    count_experts: bool = False
    isa: str = ""
    vocabulary: Vocabulary | None = None


class PeerAddresses(msgspec.Struct, frozen=True):
    """Where ranks of other hosts listen, by rank, and the secret of this start that connections have to prove; `own`:
    the address of this rank's host."""

    addresses: dict[int, tuple[str, int]] = {}
    token: bytes = b""
    own: str = ""


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first message to a rank: all that it must know to start. What is not of `world` is the rank's or its host's.

    `checkpoint`: the tensor table of the host's own files, as the checkpoint package packs it. What the comm backend
    needs to meet the other ranks is handed over as descriptors, and as `peers`. `yields_core`: whether its last thread
    yields its core to the front end and the engine at the begin of a step. `local`: its number among the ranks of its
    host, of all replicas. `environ`: weft's variables, as they are now: the process may have been started before they
    were set.
    """

    rank: int
    world: WorldSetup
    checkpoint: bytes
    cpus: list[int]
    threads: int
    yields_core: bool = False
    local: int = 0
    peers: PeerAddresses = PeerAddresses()
    environ: dict[str, str] = {}

    @property
    def where(self) -> str:
        """Its number and coordinates among the ranks of all replicas, for people."""
        return self.world.where[self.rank]


class Allocate(msgspec.Struct, frozen=True, tag="allocate"):
    """All ranks are loaded: make a KV cache of this many blocks (the null block comes on top)."""

    num_blocks: int
    max_model_len: int


class StartSteps(msgspec.Struct, frozen=True, tag="start_steps"):
    """All ranks have their caches: run steps from now on. `why_eager`: why every rank has to run them operation by
    operation, although this one may have a step program; else empty."""

    why_eager: str = ""


class RunStep(msgspec.Struct, frozen=True, tag="step"):
    """Run this part of a step; the first rank of each attention block answers with `StepDone`."""

    plan: RankPlan


class CountExperts(msgspec.Struct, frozen=True, tag="count"):
    """Answer with `ExpertsCounted`, and begin to count anew."""


class CompileGrammars(msgspec.Struct, frozen=True, tag="compile"):
    """Begin to compile these, beside steps; answer with `GrammarsCompiled`."""

    texts: list[str]


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End after the current step."""


ToRank = Setup | Allocate | StartSteps | RunStep | CountExperts | CompileGrammars | Shutdown


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """The rank's process runs, as `rank` of `world`; `settings`: what must be the same for all, in words."""

    rank: int
    world: int
    pid: int
    host: str
    settings: dict[str, str]


class Entered(msgspec.Struct, frozen=True, tag="entered"):
    """The rank entered a start-up phase."""

    phase: Phase
    detail: str = ""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """Weights are in place. `device_free`: bytes left on a device of its own; None on the CPU."""

    bytes_read: int
    device_free: int | None = None


class Recorded(msgspec.Struct, frozen=True, tag="recorded"):
    """The cache is allocated, and the decoder recorded as a step program; `why_eager`: why there is no program."""

    why_eager: str = ""


class StepDone(msgspec.Struct, frozen=True, tag="done"):
    """What was sampled in the rank's attention block."""

    index: int
    result: GroupResult


class ExpertsCounted(msgspec.Struct, frozen=True, tag="counted"):
    """Rows that chose each expert, as far as this rank counts them: int64, little endian, [layers with experts,
    experts]."""

    counts: bytes


class GrammarsCompiled(msgspec.Struct, frozen=True, tag="compiled"):
    """How many of all grammars that it was given the rank has compiled or refused."""

    count: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The rank cannot go on; `family` is a class of `weft.base.errors`, `module` that of a PeerError."""

    family: str
    message: str
    problems: list[str] = []
    module: str = ""
    death: Death = Death.EXCEPTION


FromRank = Joined | Entered | Loaded | Recorded | StepDone | ExpertsCounted | GrammarsCompiled | Failed

_encoder = msgspec.msgpack.Encoder()
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)

_FAMILIES: dict[str, type[WeftError]] = {
    family.__name__: family
    for family in (CheckpointError, ConfigError, LayoutError, PeerError, DeadlockError, MismatchError, WeftError)
}


def pack(message: ToRank | FromRank) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def unpack_for_rank(frame: bytes) -> ToRank:
    """PeerError for anything that is not a message to a rank."""
    try:
        return _to_rank.decode(frame)
    except msgspec.DecodeError as error:
        raise PeerError(f"the supervisor sent a frame that is no message: {error}") from error


def unpack_from_rank(frame: bytes) -> FromRank:
    """PeerError for anything that is not a message of a rank."""
    try:
        return _from_rank.decode(frame)
    except msgspec.DecodeError as error:
        raise PeerError(f"a rank sent a frame that is no message: {error}") from error


def failure_of(error: BaseException) -> Failed:
    """An error as a message; one that weft does not raise on purpose becomes a WeftError with its type's name."""
    for family in type(error).__mro__:
        if family.__name__ in _FAMILIES and isinstance(error, WeftError):
            problems = list(error.problems) if isinstance(error, CheckpointError) else []
            head = str(error).split("\n  ")[0] if problems else str(error)
            if isinstance(error, PeerError):
                return Failed(family.__name__, head, problems, error.module, error.death)
            return Failed(family.__name__, head, problems)
    return Failed("WeftError", f"{type(error).__name__}: {error}")


def error_of(failed: Failed, where: str) -> WeftError:
    """The error to raise here for what happened at `where`."""
    family = _FAMILIES.get(failed.family, WeftError)
    message = f"{where}: {failed.message}" + (f" (in {failed.module})" if failed.module else "")
    if family is CheckpointError:
        return CheckpointError(message, failed.problems)
    error = family(message)
    if isinstance(error, PeerError):
        error.death = failed.death
    return error
