"""What torchrun and Slurm say of a host, taken over as flags, and refused where flags say something else."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.base.errors import ConfigError, UsageError, WeftError
from weft.cli.args.dialects import take_foreign
from weft.cli.args.flags import values_of
from weft.cli.args.hosts import is_agent, take_placement
from weft.cli.args.parser import CommandParser
from weft.runtime.launchers.slurm_nodes import expanded

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0",
}  # fmt: skip
SLURM = {
    "SLURM_STEP_ID": "0", "SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_NODELIST": "node[08-11]", "SLURM_STEP_NODELIST": "node[09-10]",
    "SLURM_NODEID": "1", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process must not end with the one that started it."""
    monkeypatch.setattr("weft.cli.args.hosts.end_with_parent", lambda number: None)


def placed(words: str, environ: dict[str, str]) -> tuple[object, object, object]:
    """Hosts, number of this one, where they meet."""
    parser = CommandParser(prog="weft serve")
    import_module("weft.cli.commands.serve").add_arguments(parser)
    args: argparse.Namespace = parser.parse_command(words.split())
    take_foreign(args)
    take_placement(args, environ)
    hosts = values_of(args.hosts_given)
    return values_of(args.layout_given).get("nodes"), hosts.get("node_rank"), hosts.get("dist_init_addr")


JOB = {name: value for name, value in SLURM.items() if "STEP_N" not in name} | {"SLURM_NNODES": "4"}
ONE_NODE = SLURM | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}
THEIRS = "--from sglang -- python -m sglang.launch_server --model-path M --tp 2 --nnodes 2 --node-rank 1"
OWN = "M --world-size 2 --nnodes 2 --node-rank 1 --nprocs-per-node 1 --dist-init-addr h:25000"


@pytest.mark.parametrize(
    ("words", "environ", "expected"),
    [
        ("M --tp 2", TORCHRUN, (2, 1, "10.0.0.1:25000")),
        ("M --tp 2", TORCHRUN | {"MASTER_ADDR": "fd00::1"}, (2, 1, "[fd00::1]:25000")),
        ("M --tp 2 --dist-init-addr h:1", TORCHRUN, (2, 1, "h:1")),
        ("M --tp 2 --nnodes 2 --node-rank 1", TORCHRUN, (2, 1, "10.0.0.1:25000")),
        (f"{THEIRS} --dist-init-addr h:29500", TORCHRUN, (2, 1, "h:29500")),
        (OWN, TORCHRUN, (2, 1, "h:25000")),
        ("M", TORCHRUN | {"GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}, (1, None, None)),
        ("M --tp 2", SLURM, (2, 1, "node09:25000")),
        ("M --tp 2", JOB | {"SLURM_NTASKS": "4"}, (4, 1, "node08:25000")),
        (f"{THEIRS} --dist-init-addr h:29500", SLURM, (2, 1, "h:29500")),
        (OWN, SLURM, (2, 1, "h:25000")),
        ("M --nnodes 2 --node-rank 0", ONE_NODE, (2, 0, None)),
        ("M", {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}, (None, None, None)),
        ("M --tp 2", SLURM | TORCHRUN, (2, 1, "10.0.0.1:25000")),
        ("M", {"WORLD_SIZE": "8"}, (None, None, None)),
    ],
)  # fmt: skip
def test_what_is_taken(words: str, environ: dict[str, str], expected: tuple[object, object, object]) -> None:
    assert placed(words, environ) == expected


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        ("M --nnodes 3", TORCHRUN, "nodes is 2 in torchrun's GROUP_WORLD_SIZE, but --nnodes gives 3; leave one out"),
        ("M --node-rank 0", TORCHRUN, "node_rank is 1 in torchrun's GROUP_RANK, but --node-rank gives 0; leave one"),
        ("M --node-rank 0", SLURM, "node_rank is 1 in srun's SLURM_NODEID, but --node-rank gives 0; leave one out"),
        (THEIRS.replace("-rank 1", "-rank 0 --dist-init-addr h:1"), SLURM, r"but the sglang arguments \(node_rank\)"),
        ("M", TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, "torchrun starts 2 processes on each node: .* --nproc-per-node 1"),
        ("M", TORCHRUN | {"GROUP_RANK": "x"}, "torchrun's GROUP_RANK x: not a whole number"),
        ("M", {"TORCHELASTIC_RUN_ID": "1"}, "its variable LOCAL_WORLD_SIZE is not set"),
        ("M", {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "WORLD_SIZE is 2, and not torchrun has set it"),
        ("M", SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, "srun starts 4 tasks on 2 nodes .* --ntasks-per-node 1"),
        ("M", {"SLURM_STEP_ID": "0", "SLURM_NNODES": "1", "SLURM_NTASKS": "4"}, "srun starts 4 tasks on 1 nodes"),
        ("M", SLURM | {"SLURM_STEP_NODELIST": "node[1-3]"}, "SLURM_STEP_NODELIST has 3 nodes .* SLURM_STEP_NUM_NODES"),
        ("M", SLURM | {"SLURM_STEP_NODELIST": "node[1-"}, r"node\[1-: not a list of Slurm's nodes, as gpu\[01-03,7\]"),
    ],
)  # fmt: skip
def test_what_is_refused(words: str, environ: dict[str, str], said: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=said):
        placed(words, environ)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("M --launcher ray --nnodes 2 --node-rank 1", "host 0, but --node-rank gives 1; leave one out"),
        ("M --nnodes 2 --ray-address auto", "ray_address is for Ray: give --launcher ray, or leave it out"),
    ],
)
def test_launchers_that_number_the_hosts(words: str, said: str) -> None:
    parser = CommandParser(prog="weft serve")
    import_module("weft.cli.commands.serve").add_arguments(parser)
    with pytest.raises(ConfigError, match=said):
        is_agent(parser.parse_command(words.split()))


def test_lists_of_nodes() -> None:
    """As `scontrol show hostnames` prints them."""
    assert expanded("gpu[01-03,7],login") == ["gpu01", "gpu02", "gpu03", "gpu7", "login"]
    assert expanded("r[1-2]n[09-10]-ib") == ["r1n09-ib", "r1n10-ib", "r2n09-ib", "r2n10-ib"]
    assert expanded("n[099-101]") == ["n099", "n100", "n101"]
    for wrong in ("", "a,,b", "a[", "a[]", "a[3-1]", "a[1-99999999]", "a]1", "a[1[2]]"):
        with pytest.raises(ConfigError):
            expanded(wrong)


@given(st.lists(st.tuples(st.sampled_from(["n", "gpu-a", "x"]), st.integers(0, 40), st.integers(0, 9)), min_size=1))
def test_lists_of_nodes_are_what_was_written(entries: list[tuple[str, int, int]]) -> None:
    text = ",".join(f"{name}[{first:02}-{first + more:02}]" for name, first, more in entries)
    expected = [f"{name}{number:02}" for name, first, more in entries for number in range(first, first + more + 1)]
    assert expanded(text) == expected


@given(st.text("a1[]-,", max_size=12))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        assert all(expanded(text))
    except WeftError as error:
        assert "not a list of Slurm's nodes" in str(error)
