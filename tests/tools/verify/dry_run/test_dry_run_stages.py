"""A rank of a pipeline stage runs its own layers; what it exchanges, inside and across, is what explain says."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch

from tests.equivalence.harness import all_sizes, layout_of
from tests.support.exact_model import exact_config
from weft.cli.args.model_config import KNOWN
from weft.cli.main import main
from weft.compute.comm.base import Group
from weft.parallel.arch import ModelConfig, Shards, parse_config
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import twin
from weft.parallel.layout.ranks import coords
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.serialize import to_dict
from weft.tools.explain import LayoutReport, explain
from weft.tools.verify.dry_run.run import DryRun, dry_run

Found = Counter[tuple[str, Group, int, str]]
BATCH = 3


def counted(found: DryRun) -> Found:
    return Counter({(c.kind, c.ranks, c.nbytes, c.where): c.calls for c in found.collectives})


def explained(report: LayoutReport, rank: int) -> Found:
    """Every collective of a rank of the world by the report, hops between stages among them."""
    layout, found = report.layout, Counter[tuple[str, Group, int, str]]()
    stage, place = coords(layout, rank).stage, rank % layout.stage_size
    for passed in report.traffic:
        times = passed.times_of_stage[stage]
        for call in passed.calls:
            if call.kind != "slice" and times:
                (group,) = [group for group in call.groups if place in group]
                moved = tuple(member + rank - place for member in group)
                found[call.kind, moved, call.received[-1].per_rank[place], passed.name] += times
    for passing in report.hops:
        hop, nbytes = passing.hop, passing.received[-1].per_rank[place]
        for call in passing.gathers if hop.receiver == stage else ():
            (group,) = [group for group in call.groups if place in group]
            moved = tuple(member + rank - place for member in group)
            found[call.kind, moved, call.received[-1].per_rank[place], hop.name] += 1
        if not nbytes:  # what has no rows is not sent
            continue
        if hop.receiver == stage:
            pair = tuple(sorted((rank, twin(layout, rank, hop.sender))))
            found["recv", pair, nbytes, hop.name] += 1
        if hop.sender == stage:
            pair = tuple(sorted((rank, twin(layout, rank, hop.receiver))))
            found["send", pair, 0, hop.name.replace(".in", ".out")] += 1
    return found


def agrees(config: ModelConfig, layout: Layout, ranks: Sequence[int], dtype: str = "float32") -> None:
    shards, size = Shards(config, layout), torch.float32 if dtype == "float32" else torch.bfloat16
    report = explain("m", config, layout, dtype=dtype, batch=BATCH)
    received = report.received_per_step(BATCH)
    for rank in ranks:
        found = dry_run(shards, rank, size, BATCH)
        assert counted(found) == explained(report, rank), (layout, rank)
        assert found.params_by_module == report.ranks[rank].bytes
        assert found.kv_bytes_per_token == report.ranks[rank].kv_bytes_per_token
        assert sum(c.nbytes * c.calls for c in found.collectives) == received[rank]


def staged(layout: Layout, stages: int, replicas: int = 1) -> Layout:
    """The layout's stage as often as that."""
    given = {name: value for name, value in flat(to_dict(layout)) if name != "world"}
    return resolve(given | {"pipeline.stages": stages, "replicas": replicas})


def flat(document: dict[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        elif value is not None:
            yield before + name, value


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_small_layouts_with_stages(world: int) -> None:
    config = parse_config(exact_config("biased"))
    layouts = list(all_sizes(world))
    for sizes in random.Random(world).sample(layouts, min(len(layouts), 8)):
        for stages in range(2, min(4, config.num_layers) + 1):
            layout = staged(layout_of(world, sizes), stages)
            agrees(config, layout, range(layout.world))


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_small_layout_with_stages(world: int) -> None:
    config = parse_config(exact_config("tied"))
    for sizes in all_sizes(world):
        layout = staged(layout_of(world, sizes), 2)
        agrees(config, layout, range(layout.world))


def test_replicas_are_alike_and_named_by_their_own_ranks() -> None:
    layout = resolve({"attention.tp": 2, "pipeline.stages": 2, "replicas": 2, "o_proj.tp": 1})
    agrees(parse_config(exact_config("biased")), layout, range(layout.world))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Llama-3.1-405B", {"attention.tp": 8, "attention.dp": 2, "o_proj.tp": 16, "pipeline.stages": 4}),
        ("DeepSeek-V3", {"attention.dp": 16, "lm_head.tp": 8, "pipeline.stages": 2}),
        ("Llama-3.1-8B", {"attention.tp": 4, "pipeline.layers": (10, 8, 14)}),
        # attention's size everywhere, and yet a scattered stream: experts reached by all_to_all take it so
        ("Mixtral-8x7B", {"attention.tp": 4, "pipeline.stages": 2, "experts.dispatch": "all_to_all"}),
    ],
)
def test_big_models_with_stages(name: str, given: dict[str, object]) -> None:
    config = parse_config(json.loads((KNOWN / f"{name}.json").read_text()))
    layout = resolve(given, num_experts=config.num_experts)
    agrees(config, layout, (0, layout.stage_size + 1, layout.world - 1), dtype="bfloat16")


def test_the_command_says_what_a_stage_receives(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dry-run", "--without-checkpoint", "Llama-3.1-8B", "--tp", "2", "--pipeline-parallel-size", "2"]
    assert main([*words, "--rank", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["coords"] == {"replica": 0, "stage": 1, "dp": 0, "cp": 0, "tp": 1}
    hops = [each for each in found["collectives"] if each["where"] in ("stage.in", "ids.out")]
    row = {"bytes": 4096 * 4, "most_bytes": 4096 * 4, "calls": 1}
    assert hops == [  # of the one row the other rank of the stage has received all
        {"kind": "all_gather", "ranks": [2, 3], "where": "stage.in", **row},
        {"kind": "send", "ranks": [1, 3], "bytes": 0, "most_bytes": 0, "calls": 1, "where": "ids.out"},
    ]
    assert main([*words, "--rank", "2", "--json"]) == 0
    hops = [each for each in json.loads(capsys.readouterr().out)["collectives"] if each["where"] == "stage.in"]
    assert {"kind": "recv", "ranks": [0, 2], "where": "stage.in", **row} in hops


def test_a_split_needs_ranks_with_the_same_heads(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dry-run", "--without-checkpoint", "Llama-3.1-8B", "--kv-split-size", "2", "--tp"]
    assert main([*words, "8"]) == 78
    message = capsys.readouterr().err
    assert "attention.kv_split 2: with attention.tp 8 the ranks of a split do not hold the same KV heads" in message
    assert "legal tp and kv_split: 16 and 2" in message
    assert main([*words, "3"]) == 78
    assert "attention kv_split 2: attention has tp 3; legal tp and kv_split: 16 and 2" in capsys.readouterr().err
    assert main([*words, "16"]) == 0
