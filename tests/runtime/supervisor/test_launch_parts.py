"""The small parts of launching: cores, frames, messages, phases, status, and what may be loaded where."""

from __future__ import annotations

import gc
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import make_gguf, small_config
from tests.support.tiny_chat import CONFIG, write_tiny_chat
from weft.base.errors import CheckpointError, ConfigError, DeadlockError, LayoutError, PeerError, WeftError
from weft.base.machine.cores import CoreShare, assign_cores, available_cores, server_cpus, yield_core
from weft.base.machine.memory_trim import keep_all, not_collected
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupPlan, GroupResult, NewRequest, RankPlan, Sampled, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.comm.backend import CommSpec
from weft.compute.comm.distributed.backend import Gloo
from weft.compute.comm.registry import choose_backend
from weft.compute.comm.shm import backend as shm_backend
from weft.compute.comm.shm.backend import SharedMemory
from weft.compute.ops.native.step_ops import StepOps
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, param_specs, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.channel import MAX_FRAME, Channel, ChannelClosed, channel_pair
from weft.runtime.ipc.fingerprint import differences, settings_here
from weft.runtime.ipc.messages import (
    Allocate,
    Entered,
    RunStep,
    Setup,
    Shutdown,
    StepDone,
    WorldSetup,
    error_of,
    failure_of,
    pack,
    unpack_for_rank,
    unpack_from_rank,
)
from weft.runtime.ipc.phases import Phase, PhaseBoard
from weft.runtime.ipc.status import RankHeld, StatusPage
from weft.runtime.launch_plan.hints import hints
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.executor import reporting_ranks
from weft.runtime.worker import threads

ROOT = Path(__file__).resolve().parents[3]


@given(cores=st.integers(1, 64), ranks=st.integers(1, 64), quota=st.one_of(st.none(), st.floats(0.1, 64)))
def test_cores_are_dealt_without_overlap(cores: int, ranks: int, quota: float | None) -> None:
    shares = assign_cores([(2 * i, 2 * i + 1) for i in range(cores)], ranks, quota)
    assert len(shares) == ranks
    if ranks > cores:
        assert set(shares) == {CoreShare((), 1)}
        return
    cpus = [cpu for share in shares for cpu in share.cpus]
    assert sorted(cpus) == list(range(2 * cores)), "every hardware thread once, siblings together"
    assert all(share.cpus and 1 <= share.threads <= len(share.cpus) // 2 for share in shares)
    kept = [cpu for share in shares for cpu in share.cpus[: 2 * share.threads]]
    assert sorted([*kept, *server_cpus(shares)]) == cpus, "what no thread keeps to is the server's"
    if quota is not None:
        assert sum(share.threads for share in shares) <= max(ranks, quota + 0.5)


def test_threads_as_asked() -> None:
    cores = [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert assign_cores(cores, 2, None, 1) == (
        CoreShare((0, 1, 4, 5), 1, (1, 5)),
        CoreShare((2, 3, 6, 7), 1, (3, 7)),
    )
    assert server_cpus(assign_cores(cores, 2, None, 1)) == (1, 3, 5, 7)
    assert not server_cpus(assign_cores(cores, 2)) and not server_cpus(assign_cores(cores, 5))
    assert assign_cores(cores, 2, None, 3) == (CoreShare((), 3), CoreShare((), 3))
    with pytest.raises(ConfigError, match="threads 5: this process may use 4 cores; legal: 1 to 4"):
        assign_cores(cores, 2, None, 5)


def test_one_thread_yields_where_no_core_is_spare() -> None:
    cores = [(0, 4), (1, 5), (2, 6), (3, 7)]
    for ranks in (1, 2):
        shares = yield_core(assign_cores(cores, ranks), cores)
        assert [share.yielded for share in shares] == [()] * (ranks - 1) + [(3, 7)]
        assert server_cpus(shares) == (3, 7)
    assert server_cpus(yield_core(assign_cores(cores, 1, None, 3), cores)) == (3, 7), "a spare core"
    for shares in (assign_cores(cores, 4), assign_cores(cores, 5), assign_cores(cores, 2, None, 3)):
        assert yield_core(shares, cores) == shares, "a rank's only thread, or none that keeps to a core"


def test_this_machine_has_cores() -> None:
    assert available_cores()
    assert str(CoreShare((0, 1, 2, 5), 2)) == "2 threads on cpus 0-2, 5"
    assert str(CoreShare((), 1)) == "1 thread not pinned"


def test_frames_arrive_whole() -> None:
    ours, theirs = channel_pair()
    other = Channel(theirs)
    for frame in (b"", b"x", bytes(100_000)):
        ours.send(frame)
        assert other.receive(5) == frame
    with pytest.raises(TimeoutError):
        other.receive(0.01)
    ours.close()
    with pytest.raises(ChannelClosed):
        other.receive(5)
    other.close()


def test_frames_have_a_ceiling() -> None:
    ours, theirs = channel_pair()
    with pytest.raises(PeerError, match="longer than the largest"):
        ours.send(bytes(MAX_FRAME + 1))
    theirs.sendall(struct.pack("<I", MAX_FRAME + 1))
    with pytest.raises(PeerError, match="longer than the largest"):
        ours.receive(5)
    ours.close()
    theirs.close()


def test_a_peer_that_does_not_read_is_a_timeout() -> None:
    ours, theirs = channel_pair()
    with pytest.raises(TimeoutError):
        ours.send(bytes(10_000_000), 0.05)
    ours.close()
    theirs.close()


def setup_of_rank(tmp_path: Path, **fields: Any) -> Setup:
    """Of rank 1 of two, for a checkpoint of its own."""
    write_tiny_chat(tmp_path)
    world = WorldSetup(
        layout=resolve({"attention.dp": 2, "dense.tp": 2}),
        config=parse_config({**CONFIG, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        engine=EngineConfig(dtype="float32"),
        eos_token_ids=(1, 2),
        comm="none",
        comm_limit_s=1.0,
        join_limit_s=1.0,
        where=("rank 0", "rank 1"),
        host_of=(0, 0),
        ranks_per_host=2,
        **fields,
    )
    return Setup(rank=1, world=world, checkpoint=open_checkpoint(tmp_path).table(), cpus=[0], threads=1)


def test_ranks_whose_experts_move_keep_weights_in_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are sent as they lie in memory, which differs between variants of the C++ parts."""
    still, moving = setup_of_rank(tmp_path), setup_of_rank(tmp_path, staged_slots=1)
    variants = iter(("amx", "avx2", "amx", "avx2"))
    monkeypatch.setattr("weft.compute.native.isa.chosen", lambda: next(variants))
    monkeypatch.setattr("weft.runtime.ipc.fingerprint.missing_reason", lambda name: "")
    assert differences(["a", "b"], [settings_here(still), settings_here(still)]) is None
    refused = differences(["a", "b"], [settings_here(moving), settings_here(moving)])
    assert refused is not None and "C++ variant: a has amx, b has avx2" in str(refused)


def test_messages_survive_the_wire(tmp_path: Path) -> None:
    run = ScheduledRequest(slot=1, start=2, count=3, ids=[4, 5, 6], blocks=[7], sample=True, output_pos=8)
    admit = NewRequest(
        slot=1, prompt_ids=[1], output_ids=[2], params=SamplingParams(stop=("x",), logit_bias=((1, 2.0),)), seed=9
    )
    setup = setup_of_rank(tmp_path)
    for message in (setup, Allocate(5, 6), RunStep(RankPlan(7, (3, 0), (1, 0), GroupPlan([admit], [run]))), Shutdown()):
        assert unpack_for_rank(pack(message)) == message
    done = StepDone(3, GroupResult(b"12345678", [Sampled(1, 2, -0.5, 0, [(2, -0.5)])], [Sampled(2, 3)]))
    for answer in (Entered(Phase.LOAD, "x"), done):
        assert unpack_from_rank(pack(answer)) == answer


@given(st.binary(max_size=200))
def test_frames_that_are_no_message_are_a_peers_fault(frame: bytes) -> None:
    for unpack in (unpack_for_rank, unpack_from_rank):
        try:
            message = unpack(frame)
        except PeerError:
            continue
        assert isinstance(message, msgspec.Struct)


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("bad", ["one", "two"]),
        ConfigError("x", field="dtype"),
        LayoutError("y"),
        PeerError("z"),
        DeadlockError("d"),
        WeftError("w"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_their_family(error: WeftError) -> None:
    back = error_of(failure_of(error), "rank 3")
    assert type(back) is type(error) and back.exit_code == error.exit_code
    assert str(back) == f"rank 3: {error}"


def test_errors_of_others_become_internal_ones() -> None:
    back = error_of(failure_of(KeyError("k")), "rank 3")
    assert type(back) is WeftError and str(back) == "rank 3: KeyError: 'k'"


def test_the_status_page_is_read_by_rank() -> None:
    page = StatusPage.create(3)
    writer = page.writer(1)
    writer.phase(Phase.LOAD)
    assert str(page.read(1)) == "phase load" and page.read(0).phase is Phase.SPAWN
    writer.phase(Phase.READY)
    writer.step(2**40, busy=True)
    assert str(page.read(1)) == f"phase serving, in step {2**40}"
    writer.step(2**40, busy=False)
    assert str(page.read(1)) == f"phase serving, after step {2**40}"
    assert page.read(2).step == 0
    writer.held(3 << 40, 2)
    writer.work(5, 6, 7, 8)
    assert page.held(1) == RankHeld(3 << 40, 2) and page.held(0) == page.held(2) == RankHeld()
    assert page.work(1).rows == 6 and str(page.read(1)) == f"phase serving, after step {2**40}"
    page.close()
    assert page.held(1) == RankHeld()
    page.close()


def test_the_board_names_who_is_late() -> None:
    board = PhaseBoard(("rank 0", "rank 1", "rank 2"))
    for rank, phase in ((0, Phase.READY), (1, Phase.CACHE), (2, Phase.LOAD)):
        board.enter(rank, phase, "", 0.0)
    assert board.late() == (Phase.LOAD, (2,)) and not board.ready
    for rank in (1, 2):
        board.enter(rank, Phase.READY, "", 0.0)
    assert board.ready


def test_first_ranks_of_attention_blocks_report() -> None:
    assert reporting_ranks(resolve({"attention.tp": 2, "attention.dp": 3})) == {0: 0, 2: 1, 4: 2}


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Shards(parse_config(CONFIG), resolve({"attention.tp": 2}))
    assert choose_backend("auto", Shards(parse_config(CONFIG), resolve({}))).name == "none"
    assert choose_backend("gloo", two).name == "gloo"
    with pytest.raises(ConfigError, match="comm pigeon: legal: auto, shared_memory, tcp, gloo"):
        choose_backend("pigeon", two)
    monkeypatch.setattr(shm_backend, "missing_reason", lambda name: "")
    assert choose_backend("auto", two).name == "shared_memory"
    monkeypatch.setattr(shm_backend, "missing_reason", lambda name: "no C++ compiler")
    chosen = choose_backend("auto", two)
    assert chosen.name == "gloo" and "no C++ compiler" in str(chosen)
    with pytest.raises(ConfigError, match="legal here: gloo"):
        choose_backend("shared_memory", two)


def test_the_plan_resolves_every_limit(tmp_path: Path) -> None:
    plan = plan_launch(open_checkpoint(write_tiny_chat(tmp_path)), resolve({}), EngineConfig()).with_vocabulary(
        [5], None
    )
    assert plan.engine.dtype == "float32" and plan.engine.max_model_len == 256
    assert plan.eos_token_ids == (5, 258)
    assert plan.memory is not None and plan.memory.num_blocks == 64 * 16
    text = "\n".join(plan.settings())
    assert "max_model_len 256" in text and "rank 0: weights" in text and "threads" in text or "thread" in text


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"quantization": "gguf", "activations": "int8"}, "activations"),
        ({"compress_weights": True}, "compress_weights"),
    ],
)
def test_what_the_library_alone_does_is_refused_before_ranks_are_started(
    settings: dict[str, Any], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write_tiny_chat(tmp_path))
    monkeypatch.setenv("WEFT_NATIVE", "0")
    words = f"^{field} .*WEFT_NATIVE=0.*; leave --{field.replace('_', '-')} out"
    with pytest.raises(ConfigError, match=words) as error:
        plan_launch(checkpoint, resolve({}), EngineConfig(dtype="bfloat16", **settings))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"quantization": "int4"}, "in Q4_1; int4 quantizes it a second time; --quantization gguf keeps the file's"),
        ({"quantization": "int8"}, "in Q4_1; int8 quantizes it a second time; --quantization gguf keeps the file's"),
        ({"quantization": "int8", "dtype": "float32"}, "--quantization gguf --dtype bfloat16 keeps the file's values"),
        ({"quantization": "gguf", "activations": "full"}, None),
        ({"quantization": "none", "compress_weights": False}, None),
    ],
)
def test_what_rounds_codes_again_gets_a_hint(tmp_path: Path, settings: dict[str, Any], hint: str | None) -> None:
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(), qtype="Q4_1"))
    lines = plan_launch(checkpoint, resolve({}), EngineConfig(**{"dtype": "bfloat16", **settings})).settings()
    found = [line for line in lines if line.startswith("hint: ")]
    assert len(found) == (hint is not None) and (hint is None or hint in found[0])


@pytest.mark.parametrize(
    ("variant", "blocks", "activations", "faster"),
    [
        ("avx2", "Q4_1", "auto", True),
        ("avx2", "Q8_0", "auto", False),
        ("avx512vnni", "Q8_0", "auto", True),
        ("avx2", "Q4_1", "int8", False),
        ("avx2", "Q4_1", "full", False),
        (None, "Q4_1", "auto", False),
    ],
)
def test_a_files_blocks_get_one_where_rows_of_8_bits_are_faster(
    variant: str | None, blocks: str, activations: str, faster: bool, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(make_gguf(tmp_path / "m.gguf", small_config(), qtype=blocks))
    specs = param_specs(parse_config(checkpoint.config))
    engine = EngineConfig(dtype="bfloat16", quantization="gguf", activations=activations)
    lines = list(hints(engine, checkpoint, specs, variant))
    assert len(lines) == faster
    assert not faster or f"({variant}) is faster with int8 activations for the file's {blocks}: --activa" in lines[0]


@pytest.mark.parametrize(
    ("variant", "settings", "said"),
    [
        ("avx512vnni", {}, True),
        ("avx512", {}, True),
        ("avx512bf16", {}, False),  # has them by default
        ("avx2", {}, False),
        ("avx512vnni", {"compress_weights": False}, False),
        ("avx512vnni", {"compress_weights": True}, False),
        ("avx512vnni", {"quantization": "int8"}, False),
        ("avx512vnni", {"dtype": "float32"}, False),
        ("avx512vnni", {"enforce_eager": True}, False),
        (None, {}, False),
    ],
)
def test_shorter_numbers_are_named_where_only_few_streams_gain(
    variant: str | None, settings: dict[str, Any], said: bool, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_tiny_chat(tmp_path))
    engine = EngineConfig(**{"dtype": "bfloat16", **settings})
    lines = list(hints(engine, checkpoint, param_specs(parse_config(checkpoint.config)), variant))
    assert len(lines) == said and all(f"({variant}) one stream was faster" in line for line in lines)


def test_a_file_without_codes_gets_none(tmp_path: Path) -> None:
    plan = plan_launch(open_checkpoint(write_tiny_chat(tmp_path)), resolve({}), EngineConfig(quantization="int8"))
    assert not any(line.startswith("hint: ") for line in plan.settings())


NO_TORCH = """
import sys
import weft, weft.frontend.llm, weft.runtime.worker.main
import weft.cli.main, weft.cli.commands.serve, weft.cli.commands.generate
assert weft.LLM is weft.frontend.llm.LLM
loaded = [name for name in sys.modules if name.split(".")[0] == "torch" or name == "weft.compute.comm.base"]
assert not loaded, loaded
"""


def test_the_supervisor_never_loads_torch() -> None:
    subprocess.run([sys.executable, "-c", NO_TORCH], check=True, cwd=ROOT, timeout=240)


def test_no_listener_beyond_loopback() -> None:
    meeting = Gloo().meet(CommSpec(2, ()))
    assert meeting.fds(0) == meeting.fds(1)
    with socket.socket(fileno=os.dup(meeting.fds(0)[0])) as listening, socket.socket() as probe:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        probe.connect((host, port))
    meeting.met()
    meeting.close()


@pytest.mark.parametrize("own_cores", [True, False])
def test_ranks_spin_and_keep_to_cores_only_where_these_are_their_own(
    own_cores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that share cores, each pinned to the first, would leave the others idle."""
    given: list[int | None] = []

    def create(*_: object, spin_us: int | None, **__: object) -> SimpleNamespace:
        given.append(spin_us)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("weft.compute.comm.shm.backend.Region.create", create)
    SharedMemory().meet(CommSpec(2, (), own_cores)).close()
    assert given == [None if own_cores else 0]

    pinned: list[list[int]] = []
    yields_core: list[bool] = []
    ops: Any = object.__new__(StepOps)
    ops.pool = SimpleNamespace(pin=pinned.append, threads=2, yield_core=yields_core.append)
    monkeypatch.setattr(threads, "available_cores", lambda: ((0, 2), (1, 3)))
    monkeypatch.setattr("weft.runtime.worker.threads.torch.set_num_threads", lambda _: None)
    runner: Any = SimpleNamespace(program=object(), ops=ops)
    setup: Any = SimpleNamespace(cpus=[0, 1] * own_cores, yields_core=True)
    threads.pin_threads(runner, setup)
    assert (pinned, yields_core) == ([[0, 1]] * own_cores, [True] * own_cores)


def test_garbage_is_collected_again_after_imports_that_failed() -> None:
    with pytest.raises(ImportError), not_collected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_what_is_kept_is_not_looked_at_again() -> None:
    gc.unfreeze()
    assert gc.get_freeze_count() == 0
    keep_all()
    assert gc.get_freeze_count() > len(gc.get_objects())
