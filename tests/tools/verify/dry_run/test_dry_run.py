"""The dry run counts what explain derived from the declarations, and what a real run of all ranks exchanges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.equivalence.harness import all_dispatched, all_sizes, covering, layout_of
from tests.support.exact_model import exact_config, write_random
from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.cli.args.model_config import KNOWN, known_models
from weft.cli.main import main
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.shm.region import CollectiveKind
from weft.compute.comm.wrapped import CommWrapper, Run
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import open_checkpoint
from weft.model.models.dispatch.all_to_all import AllToAll, Choices
from weft.parallel.arch import ModelConfig, Shards, parse_config
from weft.parallel.layout.boundaries import KEYS, PARTIALS, QUERIES, KeyGather
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.explain import LayoutReport, explain
from weft.tools.verify.dry_run.comm import RecordingComm
from weft.tools.verify.dry_run.run import DryRun, PromptStep, dry_run

Found = Counter[tuple[str, Group, int, str]]
BATCH = 3
EIGHTS = ("o_proj.tp", "lm_head.tp", "dense.tp", "embedding.tp")


def config_of(variant: str) -> ModelConfig:
    return parse_config(exact_config(variant))


def counted(found: DryRun) -> Found:
    return Counter({(c.kind, c.ranks, c.nbytes, c.where): c.calls for c in found.collectives})


def explained(report: LayoutReport, rank: int) -> Found:
    found: Found = Counter()
    for passed in report.traffic:
        for call in passed.calls:
            if call.kind != "slice" and passed.times:
                (group,) = [group for group in call.groups if rank in group]
                nbytes = call.received[-1].per_rank[rank]
                found[call.kind, group, nbytes, passed.name] += passed.times
    return found


def agrees(config: ModelConfig, layout: Layout, ranks: Sequence[int], dtype: str = "float32") -> None:
    shards, size = Shards(config, layout), torch.float32 if dtype == "float32" else torch.bfloat16
    report = explain("m", config, layout, dtype=dtype, batch=BATCH)
    for rank in ranks:
        found = dry_run(shards, rank, size, BATCH)
        assert counted(found) == explained(report, rank), (layout, rank)
        most = {passed.name: passed.most[-1].per_rank[rank] for passed in report.routed}
        assert {c.where: c.most for c in found.collectives if c.where in most} == most
        assert all(c.most == c.nbytes for c in found.collectives if c.where not in most)
        assert found.params_by_module == report.ranks[rank].bytes
        assert found.kv_bytes_per_token == report.ranks[rank].kv_bytes_per_token
        assert found.activation_peak > 0


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_small_dense_layouts(world: int) -> None:
    for sizes in covering(all_sizes(world), 2)[0]:
        agrees(config_of("biased"), layout_of(world, sizes), range(world))


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_small_dense_layout(world: int) -> None:
    for sizes in all_sizes(world):
        agrees(config_of("tied"), layout_of(world, sizes), range(world))


@pytest.mark.parametrize(("variant", "experts"), [("experts", 5), ("latent", 6)])
def test_small_layouts_with_experts(variant: str, experts: int) -> None:
    """With any two sizes; each layout as two of its ranks."""
    for number, sizes in enumerate(covering(all_dispatched(4, experts), 2)[0]):
        agrees(config_of(variant), sizes.layout(4, experts), (number % 4, 3 - number % 4))


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("biased", {"attention.cp": 3, "lm_head.tp": 3}),
        ("biased", {"attention.tp": 2, "attention.cp": 2, "dense.tp": 4}),
        ("window", {"attention.tp": 3, "attention.kv_split": 3, "attention.dp": 2, "o_proj.tp": 6}),
        ("latent", {"attention.tp": 2, "attention.kv_split": 2, "attention.cp": 2, "experts.slots": 8}),
        ("latent", {"attention.tp": 4, "attention.kv_split": 2, "experts.slots": 8}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shared_contexts(variant: str, given: dict[str, object], dtype: str) -> None:
    config = config_of(variant)
    layout = resolve(given, num_experts=config.num_experts)
    agrees(config, layout, range(layout.stage_size), dtype)


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("biased", {"attention.tp": 2, "attention.cp": 2}),
        ("window", {"attention.tp": 6, "attention.kv_split": 2, "dense.tp": 3}),
        ("latent", {"attention.tp": 2, "attention.kv_split": 2, "attention.cp": 2, "experts.slots": 8}),
    ],
    ids=str,
)
def test_either_form_of_a_prompt(variant: str, given: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Explain prices both; the dry run exchanges what the longest context says, and has the bytes of that form."""
    config = config_of(variant)
    layout, rows = resolve(given, num_experts=config.num_experts), 23
    shards, report = Shards(config, layout), explain("m", config, layout, dtype="bfloat16", chunk=(rows, 4))
    assert report.prompt is not None
    priced = {passed.name: passed.calls[0] for passed in report.prompt.exchanges}
    for longest, form in ((24, {KEYS}), (23, {QUERIES, PARTIALS})):
        monkeypatch.setattr(KeyGather, "longest", lambda self, of, itemsize, longest=longest: longest * (of == rows))
        for rank in range(layout.stage_size):
            found = dry_run(shards, rank, torch.bfloat16, 1, prompt=PromptStep(rows, 4)).collectives
            calls = {(c.where, c.kind, c.ranks, c.nbytes) for c in found if c.where in priced}
            wanted = {
                (
                    name,
                    call.kind,
                    next(group for group in call.groups if rank in group),
                    call.received[0].per_rank[rank],
                )
                for name, call in priced.items()
                if name in form
            }
            assert wanted <= calls and (form == {KEYS}) == (KEYS in {where for where, *_ in calls})


@pytest.mark.parametrize("layers", [8, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("name", "given", "world"),
    [
        ("Llama-3.1-405B", {"attention.tp": 8, "attention.dp": 2, "o_proj.tp": 16, "lm_head.tp": 16}, 16),
        ("Qwen3-235B-A22B", {"attention.tp": 4, "attention.dp": 4, "experts.tp": 2, "experts.ep": 8}, 16),
        ("DeepSeek-V3", {"attention.dp": 144, "experts.slots": 288, "experts.dispatch": "all_to_all"}, 144),
        ("Mixtral-8x7B", {"attention.tp": 2, "experts.tp": 2, "experts.ep": 4, "experts.dispatch": "all_to_all"}, 8),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("DeepSeek-V3", {"attention.dp": 32, **dict.fromkeys(EIGHTS, 8)}, 32),
                ("DeepSeek-V3", {"attention.dp": 32, "experts.dispatch": "all_gather"}, 32),
                ("Kimi-K2", {"attention.tp": 2, "attention.dp": 8, "experts.slots": 400, "shared_experts.tp": 4}, 16),
            ]
        ),
    ],
)
def test_big_models_at_their_sizes(name: str, given: dict[str, object], world: int, layers: int) -> None:
    """In the short suite with some of their layers."""
    known = json.loads((KNOWN / f"{name}.json").read_text())
    config = parse_config(known | {"num_hidden_layers": min(layers, known["num_hidden_layers"])})
    layout = resolve(given, world, num_experts=config.num_experts)
    agrees(config, layout, (0, world - 3), dtype="bfloat16")


class Recorded(CommWrapper):
    """A real comm, whose calls are written down as the dry run's are."""

    def __init__(self, inner: Comm, notes: RecordingComm) -> None:
        super().__init__(inner)
        self.notes = notes

    def _call(
        self, kind: CollectiveKind, group: Group, ins: Sequence[Tensor], outs: Sequence[Tensor], run: Run
    ) -> Tensor | None:
        self.notes.record(kind, group, outs)
        return run(ins, outs)

    def _pair(self, peer: int) -> Group:
        """The peer alone, in the world's numbers: this rank's number is the stage's."""
        return (peer,)


def real_calls(path: Path, layout: Layout) -> Iterator[Counter[tuple[str, Group, int]]]:
    """What each rank of a real decode step calls, BATCH rows in every group."""
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), layout)
    limits = RankCapacity(num_blocks=16, block_size=8, max_num_seqs=8, max_model_len=64)
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    params = SamplingParams(temperature=0.0)
    groups = range(layout.attention.dp)
    admits = [NewRequest(slot, [1, 2], [], params, 0) for slot in range(BATCH)]
    first = [ScheduledRequest(slot, 0, 2, [1, 2], [slot + 1], True) for slot in range(BATCH)]
    then = [ScheduledRequest(slot, 2, 1, [], [slot + 1], True, 1) for slot in range(BATCH)]
    executor.step(StepPlan(0, [GroupPlan(list(admits), list(first)) for _ in groups]))
    for runner in executor.runners:
        real = runner.decoder.transitions.comm
        runner.decoder.transitions.comm = Recorded(real, RecordingComm(real.rank, layout.world))
    executor.step(StepPlan(1, [GroupPlan([], list(then)) for _ in groups], awaits=1))
    for runner in executor.runners:
        comm = runner.decoder.transitions.comm
        assert isinstance(comm, Recorded)
        yield Counter(comm.notes.calls)


@pytest.mark.parametrize("variant", ["biased", "experts", "latent"])
def test_a_real_run_records_the_same(variant: str, tmp_path: Path) -> None:
    path, config = write_random(tmp_path, variant), config_of(variant)
    given = {"attention.tp": 2, "o_proj.tp": 4, "dense.tp": 1, "lm_head.tp": 4}
    layout = resolve(given, 4, num_experts=config.num_experts)
    for rank, calls in enumerate(real_calls(path, layout)):
        dry: Counter[tuple[str, Group, int]] = Counter()
        for c in dry_run(Shards(config, layout), rank, torch.float32, BATCH).collectives:
            dry[c.kind, c.ranks, c.nbytes] += c.calls
        assert calls == dry


@pytest.mark.parametrize("given", [{"attention.tp": 2}, {"attention.tp": 2, "o_proj.tp": 1}], ids=str)
def test_stages_record_the_same_messages(given: dict[str, object], tmp_path: Path) -> None:
    """The residual stream forward, and the ids of the step before back to the first stage."""
    path, config = write_random(tmp_path, "biased"), config_of("biased")
    layout = resolve(given | {"pipeline.stages": 2}, 4)
    for rank, calls in enumerate(real_calls(path, layout)):
        first = rank - rank % 2
        wanted: Counter[tuple[str, Group, int]] = Counter()
        for each in dry_run(Shards(config, layout), rank, torch.float32, BATCH).collectives:
            wanted[each.kind, each.ranks, each.nbytes] += each.calls
        found: Counter[tuple[str, Group, int]] = Counter()
        for (kind, ranks, nbytes), times in calls.items():  # in the stage's numbers, but for peers in other stages
            inside = {rank, *ranks} if kind in ("send", "recv") else {first + member for member in ranks}
            found[kind, tuple(sorted(inside)), nbytes] += times
        assert found == wanted, rank


def brute_force(seen: Sequence[Choices], rank: int, hidden: int) -> Counter[tuple[str, Group, int]]:
    """What the rank receives in the exchanges of one layer after the other, counted row by row."""
    found: Counter[tuple[str, Group, int]] = Counter()
    for choices in seen:
        block, place = choices.block, rank % choices.block.size
        group = tuple(range(rank - place, rank - place + block.size))
        rows = answers = 0
        for source in range(block.size):
            for row in range(*choices.starts[source : source + 2]):
                positions = choices.positions[row].tolist()
                if source != place:
                    rows += block.position(place) in positions
                if source == place:
                    ranks = [p * block.tp + i for p in positions for i in range(block.tp)]
                    answers += sum(other != place for other in ranks)
        found["all_to_all", group, rows * hidden * 4] += 1
        found["all_to_all", group, answers * hidden * 4] += 1
    return found


@pytest.mark.parametrize(
    "given", [{"experts.slots": 8}, {"experts.tp": 2, "experts.ep": 2}, {"experts.ep": 2}], ids=str
)
def test_a_real_run_moves_the_rows_that_were_chosen(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Routed messages are as long as the choices say, never longer than explain's maximum; all others as dry."""
    path, config = write_random(tmp_path, "experts"), config_of("experts")
    layout = resolve({"attention.tp": 2, "experts.dispatch": "all_to_all", **given}, 4, num_experts=5)
    seen: dict[int, list[Choices]] = {rank: [] for rank in range(4)}
    original = AllToAll._send_choices

    def kept(self: AllToAll, *args: Any) -> Choices:
        seen[self._transitions.comm.rank].append(original(self, *args))
        return seen[self._transitions.comm.rank][-1]

    monkeypatch.setattr(AllToAll, "_send_choices", kept)
    report = explain("m", config, layout, dtype="float32", batch=BATCH)
    most = {passed.most[-1].per_rank for passed in report.routed}
    real = list(real_calls(path, layout))
    monkeypatch.undo()
    for rank, calls in enumerate(real):
        dry: Counter[tuple[str, Group, int]] = Counter()
        for c in dry_run(Shards(config, layout), rank, torch.float32, BATCH).collectives:
            if c.where not in ("experts.dispatch", "experts.combine"):
                dry[c.kind, c.ranks, c.nbytes] += c.calls
        routed = brute_force(seen[rank][-config.num_layers :], rank, config.hidden_size)
        assert calls == dry + routed
        assert all(nbytes <= max(ranks[rank] for ranks in most) for _, _, nbytes in routed)


def test_command_and_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dry-run", "--without-checkpoint", "Llama-3.1-8B", "--tp", "4"]
    assert main([*words, "--rank", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "weft.dry-run/3" and found["rank"] == 3 and found["coords"]["tp"] == 3
    assert found["param_bytes"] == sum(found["params_by_module"].values())
    assert {c["where"] for c in found["collectives"]} >= {"o_proj.out", "dense.out", "lm_head.in"}
    assert main([*words, "--rank", "4"]) == 78
    assert "--rank: 4 is out of range; legal: 0 to 3" in capsys.readouterr().err
    assert main(["dry-run", "--without-checkpoint", "Llama-3.1-8b-x"]) == 2
    assert "Llama-3.1-8B" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kept",
    [
        ("--quantization", "int8"),
        ("--quantization", "int4"),
        ("--quantization", "gguf", "--compress-weights"),
        ("--compress-weights",),
        ("--no-compress-weights",),
    ],
    ids=" ".join,
)
def test_matrices_are_counted_as_they_are_kept(kept: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Of the embedded model, a file of blocks; what moves is the same."""
    words = ("--tp", "2", "--dtype", "bfloat16", *kept, "--json")
    assert main(["explain", *words]) == main(["dry-run", *words, "--rank", "1"]) == 0
    out = capsys.readouterr().out
    explained, end = json.JSONDecoder().raw_decode(out)
    found = json.loads(out[end:])
    for name in ("quantization", "compressed"):
        assert found[name] == explained[name]
    assert found["params_by_module"] == explained["ranks"][1]["bytes"]
    assert main(["dry-run", *words[:4], "--no-compress-weights", "--rank", "1", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["collectives"] == found["collectives"]
    assert (found["param_bytes"] < plain["param_bytes"]) == (kept != ("--no-compress-weights",))


def test_the_head_says_how_matrices_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dry-run", "--quantization", "int4", "--tp", "2"]) == 0
    assert "bfloat16, matrices in int4: rank 0 (tp 0) of 2" in capsys.readouterr().out
    known = ["dry-run", "--without-checkpoint", "Llama-3.1-8B"]
    assert main([*known, "--quantization", "gguf"]) == 78
    assert "the model has no tensor in Q8_0, Q4_0, Q4_1" in capsys.readouterr().err


@pytest.mark.parametrize("name", known_models())
def test_known_models_are_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--without-checkpoint", name, "--attn-dp-size", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "weft.explain/3"


GIB = 2**30


def test_memory_saved_by_fine_grained_sizes_of_deepseek_r1() -> None:
    """The published table for sizes of 8 against 1, GiB a rank: o_proj and MLP in int8, the vocabularies in bf16."""
    config = parse_config(json.loads((KNOWN / "DeepSeek-R1.json").read_text()))

    def held(size: int) -> dict[str, int]:
        sizes = {f"{module}.tp": size for module in ("o_proj", "lm_head", "embedding", "dense")}
        return Shards(config, resolve({"attention.dp": 32, **sizes}, 32, num_experts=256)).elements(0)

    one, eight = held(1), held(8)
    saved = {module: one[module] - eight[module] for module in ("o_proj", "lm_head", "embedding", "dense")}
    assert round(saved["o_proj"] / GIB, 3) == 5.838
    assert round(saved["lm_head"] * 2 / GIB, 3) == round(saved["embedding"] * 2 / GIB, 3) == 1.510
    assert round(saved["dense"] / GIB, 3) == 0.969
    assert round((saved["o_proj"] + saved["dense"] + 2 * (saved["lm_head"] + saved["embedding"])) / GIB, 2) == 9.83


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (("--attn-dp-size", "2", "--moe-dispatch", "deepep_normal"), "experts.dispatch deepep_normal"),
    ],
)
def test_what_the_model_code_does_not_run_is_not_counted(
    flags: Sequence[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dry-run", "--without-checkpoint", "Mixtral-8x7B", *flags]) == 78
    assert f"{field}: the model code does not run it yet" in capsys.readouterr().err


def test_explain_says_which_dispatch_and_why() -> None:
    config = parse_config(json.loads((KNOWN / "DeepSeek-V3.json").read_text()))
    for world, form in ((1, "all_gather"), (2, "all_gather"), (32, "all_to_all")):
        layout = resolve({"attention.dp": world}, world, num_experts=256)
        report = explain("m", config, layout, dtype="bfloat16", batch=1)
        assert report.dispatch is not None and report.dispatch.form == form
        (note,) = [note for note in report.notes if note.code == "dispatch"]
        assert note.message == f"rows reach their experts by {form}, {report.dispatch.reason}"
        assert bool(report.routed) == (form == "all_to_all")


def test_a_checkpoint_that_cannot_be_loaded_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dry-run", "DeepSeek-V3", "--without-checkpoint", "--tp", "8", "--moe-ep-size", "8"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("DeepSeek-V3, bfloat16, matrices in fp8: rank 0")
    assert "! the checkpoint is quantized (fp8), which weft cannot load" in text and "12 bits" not in text
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["quantization"] == "fp8" and not document["compressed"]
    assert [note["code"] for note in document["notes"] if note["level"] == "warning"] == ["quantized"]
