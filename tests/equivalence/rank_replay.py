"""Forks the ranks of a world and sends them one layout after the other: each replays plans over a real comm.

Backend `program` is shared memory too, the step program instead of the operations one by one.

In: a JSON line for each world {backend, world, checkpoint, cases: [{sizes, plans}]} (plans: base64 msgpack).
Out: a JSON line for each, for every rank and case the digests of its logits, step by step.
An import of torch serves all ranks of all worlds; no thread at the fork.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from tests.equivalence.harness import EXACT, LIMITS, AnySizes, ContextSizes, ExpertSizes, any_layout, checkpoint_at
from weft.base.step.plan import StepPlan, most_sampled
from weft.compute.comm.backend import CommSpec, HostSite, RankEnd
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.groups import groups_of as layout_groups
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.comm.registry import backend_named
from weft.compute.comm.shm.region import Region
from weft.compute.comm.shm.shared_memory import SharedMemoryComm
from weft.compute.native.step_library import Pool, open_library
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.compute.ops.native.step_ops import StepOps
from weft.model.layers import Prepare
from weft.model.models.decoder import Batch
from weft.model.program.lower import End
from weft.model.program.memory_planning import StepCapacity
from weft.model.program.program import StepProgram, record
from weft.model.weights.loader import load_params
from weft.parallel.arch import Shards, parse_config
from weft.parallel.arch.forward_plan import rank_plans
from weft.parallel.layout.placement import Placement, full
from weft.runtime.worker.runner import Runner

DEVICE = torch.device("cpu")


class Digests:
    """Takes the place of a decoder's tap: a digest of this rank's logits in every step."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, name: str, x: Tensor, placement: Placement) -> None:
        if name == "lm_head":
            shape = str(tuple(x.shape)).encode()
            self.found.append(hashlib.sha256(shape + x.contiguous().numpy().tobytes()).hexdigest()[:16])


def shards_of(job: dict[str, Any], case: dict[str, Any]) -> Shards:
    config = parse_config(checkpoint_at(Path(job["checkpoint"])).config)
    return Shards(config, any_layout(Path(job["checkpoint"]), job["world"], sizes_of(case["sizes"])))


def sizes_of(given: Any) -> AnySizes:
    """What the test wrote as JSON."""
    if not isinstance(given, dict):
        return tuple(given)
    return ContextSizes(**given) if "cp" in given else ExpertSizes(**given)


def groups_of(job: dict[str, Any]) -> tuple[Group, ...]:
    """Every group of any of the layouts, in one global order."""
    found: set[Group] = set()
    for case in job["cases"]:
        found.update(layout_groups(shards_of(job, case)))
    return tuple(sorted(found))


class ExactProgram:
    """Takes the place of a runner's program: the exact model's, with a digest of what it gives."""

    def __init__(self, runner: Runner, comm: Comm, threads: int, digests: Digests) -> None:
        library = open_library()
        assert library is not None
        pool = Pool(library, threads)
        # what is packed for the exact model is packed as for any other
        ops = StepOps(Numerics(EXACT.dtype), DEVICE, pool)
        prepare = Prepare(ops, runner.shards, comm.rank)
        params = {
            name: prepare(name, weight) if isinstance(weight, Tensor) else weight
            for name, weight in runner.params.items()
        }
        layers = enumerate(runner.decoder.layers)
        tables = {index: layer.experts.tables for index, layer in layers if layer.experts is not None}
        recording = record(runner.shards, params, comm, EXACT, runner.ropes, runner.caches, tables)
        end = End(*comm.end) if isinstance(comm, SharedMemoryComm) else None
        most = StepCapacity(LIMITS.max_num_batched_tokens, most_sampled(LIMITS.max_num_seqs))
        positions = LIMITS.max_model_len
        self.digests = digests
        self.program = StepProgram(recording, runner.shards, pool, runner.caches, most, positions, end, exact=True)

    def run(self, batch: Batch) -> Tensor:
        logits = self.program.run(batch)
        self.digests("lm_head", logits, FULL)
        return logits


FULL = full(1)


def replay(job: dict[str, Any], case: dict[str, Any], comm: Comm) -> list[str]:
    checkpoint, shards = checkpoint_at(Path(job["checkpoint"])), shards_of(job, case)
    params = load_params(checkpoint, shards.specs, shards, comm.rank, EXACT.dtype, DEVICE).params
    runner = Runner(shards, params, comm, make_ops(EXACT, DEVICE), LIMITS, DEVICE, ())
    digests = Digests()
    if job["backend"] == "program":
        runner.program = ExactProgram(runner, comm, job.get("threads", 1), digests)  # type: ignore[assignment]
    runner.decoder.tap = digests
    plans = rank_plans(shards.forward_plan, shards.layout, LIMITS.block_size, EXACT.dtype.itemsize)
    for plan in msgspec.msgpack.decode(base64.b64decode(case["plans"]), type=list[StepPlan]):
        runner.step(plans.split(plan)[runner.geometry.group])
    return digests.found


def run_rank(job: dict[str, Any], rank: int, make_comm: Any, out: int) -> None:
    """In the child, to the end of the process."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    torch.set_num_threads(1)
    code = 1
    try:
        comm = make_comm(rank)
        answer = json.dumps([replay(job, case, comm) for case in job["cases"]])
        comm.close()
        code = 0
    except BaseException as error:
        answer = json.dumps(f"{type(error).__name__}: {error}")
    with os.fdopen(out, "w") as pipe:
        pipe.write(answer)
    os._exit(code)


def comm_maker(job: dict[str, Any]) -> Any:
    world, groups = job["world"], groups_of(job)
    if job["world"] == 1:
        return lambda rank: LockstepWorld(1, ()).comms[0]
    if job.get("hosts", 1) > 1:
        return over_hosts(world, groups, job["hosts"])
    if job["backend"] in ("shared_memory", "program"):
        region = Region.create(world, groups)
        return lambda rank: SharedMemoryComm(region, rank, timeout=240.0)
    gloo = backend_named("gloo")
    meeting = gloo.meet(CommSpec(world, groups))
    return lambda rank: gloo.make(RankEnd(rank, world, groups, meeting.fds(rank), 240.0))


def over_hosts(world: int, groups: tuple[Group, ...], count: int) -> Any:
    """Ranks of hosts with equally many of them: regions of their own, and connections between all."""
    tcp, host_of = backend_named("tcp"), tuple(rank * count // world for rank in range(world))
    sites = [HostSite(host, host_of, "127.0.0.1") for host in range(count)]
    meetings = [tcp.meet(CommSpec(world, groups, own_cores=False, site=site)) for site in sites]
    peers = {rank: at for meeting in meetings for rank, at in meeting.addresses().items()}

    def make(rank: int) -> Comm:
        fds = meetings[host_of[rank]].fds(rank)
        return tcp.make(RankEnd(rank, world, groups, fds, 240.0, False, host_of, peers, b"t" * 32))

    return make


def answers_of(job: dict[str, Any]) -> list[Any]:
    """Every rank's answer to a world's job, or the error that ended it."""
    make_comm, pipes, pids = comm_maker(job), [], []
    for rank in range(job["world"]):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            run_rank(job, rank, make_comm, write)
        os.close(write)
        pipes.append(read)
        pids.append(pid)
    answers = []
    for read, pid in zip(pipes, pids, strict=True):
        with os.fdopen(read) as pipe:
            answers.append(json.loads(pipe.read() or '"ended without a word"'))
        os.waitpid(pid, 0)
    return answers


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answers_of(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
