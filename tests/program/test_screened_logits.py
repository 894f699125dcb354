"""Whether a rank bounds its logits: by default where it can, not where that is off, an error where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import make_gguf, small_config
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from tests.worker.decode_cases import GREEDY, serve
from tests.worker.test_decode_steps import both_ways
from weft.arch import Shards, param_specs, parse_config
from weft.checkpoint import open_checkpoint
from weft.errors import ConfigError
from weft.launch_plan.memory import pruned_rows
from weft.layout.resolve import resolve
from weft.native import kernels
from weft.native.step_library import open_library
from weft.ops.base import Numerics
from weft.program.argmax_pruning import ArgmaxPruner
from weft.settings import EngineConfig
from weft.weights.storage import weight_storage
from weft.worker.lockstep_executor import LockstepExecutor
from weft.worker.numerics import numerics_of
from weft.worker.runner import RankCapacity, Runner

LIMITS = RankCapacity(num_blocks=4, block_size=16, max_num_seqs=4, max_model_len=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("step", "comm")
    return write_random(tmp_path_factory.mktemp("model"), "tied")


def runner(model: Path, numerics: Numerics, eager: bool = False) -> Runner:
    checkpoint = open_checkpoint(model)
    shards = Shards(parse_config(checkpoint.config), resolve({}))
    if eager:
        return LockstepExecutor(checkpoint, shards, numerics, LIMITS, torch.device("cpu")).runners[0]
    return ProgramExecutor(checkpoint, shards, numerics, LIMITS).runners[0]


def pruner_of(runner: Runner) -> ArgmaxPruner | str:
    assert runner.program is not None
    return runner.program.program.pruner


@pytest.fixture(scope="module")
def able(model: Path) -> None:
    library = open_library()
    if library is None or not library.weft_suits_argmax_pruning():
        pytest.skip("this CPU has no byte dot products (VNNI, or AVX2) that weft uses")


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("asked", [None, True])
@pytest.mark.parametrize("whole", [True, False], ids=["16 bits", "12 bits"])
def test_it_is_done_where_it_can_be(asked: bool | None, whole: bool, model: Path) -> None:
    found = runner(model, Numerics(torch.bfloat16, compress_weights=not whole, prune_argmax=asked))
    pruner = pruner_of(found)
    assert isinstance(pruner, ArgmaxPruner) and found.describe().endswith(" MiB at most, bounds of logits 0 MiB")
    vocabulary, hidden = found.shards.config.vocab_size, found.shards.config.hidden_size
    assert found.held()[2] == pruner.nbytes
    many = pruner.bytes_read(rows=pruner.few + 1)
    assert vocabulary * hidden < many < (vocabulary + 32) * (hidden + 64) * 1.1
    assert pruner.bytes_read(rows=pruner.few) <= many < pruner.nbytes


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("quantization", "activations"),
    [("none", "auto"), ("int8", "full"), ("int8", "int8"), ("int4", "auto"), ("gguf", "full"), ("gguf", "int8")],
)
@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("batched", [2, 3, 64])
def test_it_takes_the_bytes_that_are_planned_for_all_rows_of_a_block(
    quantization: str, activations: str, tp: int, batched: int, model: Path, tmp_path: Path
) -> None:
    file = make_gguf(tmp_path / "m.gguf", small_config(), qtype="Q4_1") if quantization == "gguf" else model
    checkpoint = open_checkpoint(file)
    engine = EngineConfig(
        dtype="bfloat16",
        quantization=quantization,
        activations=activations,
        max_num_seqs=2,
        max_num_batched_tokens=batched,
        block_size=16,
    )
    config = parse_config(checkpoint.config)
    storage = weight_storage(engine, checkpoint, param_specs(config), kernels())
    shards = Shards(config, resolve({"attention.tp": tp}), storage=storage)
    limits = RankCapacity(num_blocks=4, block_size=16, max_num_seqs=2, max_model_len=64, max_num_batched_tokens=batched)
    executor = ProgramExecutor(checkpoint, shards, numerics_of(engine), limits)
    rows = pruned_rows(engine, shards.layout)
    for rank, found in enumerate(executor.runners):
        pruner = pruner_of(found)
        assert isinstance(pruner, ArgmaxPruner) and pruner.nbytes == shards.argmax_sketch_bytes(rank, rows)
        assert rows >= 2 and len(pruner.memory[-1]) == rows, "each rank bounds the rows of both"
    executor.close()


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("int8_activations", [True, False], ids=["rows of 8 bits", "rows in full"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_of_codes_many_rows_have_bounds_if_they_are_not_rounded(
    quantization: str, int8_activations: bool, model: Path
) -> None:
    pruner = pruner_of(
        runner(model, Numerics(torch.bfloat16, quantization=quantization, int8_activations=int8_activations))
    )
    assert isinstance(pruner, ArgmaxPruner) and pruner.bytes_read(rows=1) > 0
    assert (pruner.bytes_read(rows=pruner.few + 1) > 0) == (not int8_activations)


def test_it_can_be_left_out(model: Path) -> None:
    found = runner(model, Numerics(torch.bfloat16, prune_argmax=False))
    assert pruner_of(found) == "as asked" and "bounds" not in found.describe()
    assert found.decode is not None and found.decode.record.pruner is None


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("numerics", "eager", "why"),
    [
        (
            Numerics(torch.float32, prune_argmax=True),
            False,
            "lm_head is neither bfloat16 nor quantized",
        ),
        (
            Numerics(torch.float32, quantization="int8", prune_argmax=True),
            False,
            "rows that lm_head is multiplied with are not bfloat16",
        ),
        (Numerics(torch.bfloat16, prune_argmax=True), True, "a step runs eagerly"),
    ],
)
def test_an_error_says_why_it_cannot_be(numerics: Numerics, eager: bool, why: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=f"^prune_argmax: {why}; leave --prune-argmax out$") as error:
        runner(model, numerics, eager)
    assert error.value.field == "prune_argmax"


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("resting", [0, 3, 100])
def test_ranks_send_each_other_what_they_find_first(resting: int, model: Path) -> None:
    """Also one whose own bounds pause; where no rank's are used, no rank sends anything."""
    with both_ways(model, 2, {"attention.tp": 2}, torch.bfloat16) as executor:
        runners = executor.executors[0].runners
        pruners = [pruner_of(each) for each in runners]
        for pruner in pruners[: 2 if resting == 100 else 1]:
            assert isinstance(pruner, ArgmaxPruner)
            pruner.record.left = resting
        serve(executor, [(0, 3, 9, GREEDY), (0, 2, 9, GREEDY)])
        assert executor.largest_steps == executor.short_steps
        assert [each.decode.record.meets for each in runners if each.decode] == [int(resting < 100)] * 2
        looked = [pruner.record.looked for pruner in pruners if isinstance(pruner, ArgmaxPruner)]
        assert all(looked) if resting < 100 else not any(looked)
