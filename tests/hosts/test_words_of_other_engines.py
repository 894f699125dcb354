"""Words of vLLM, SGLang and TokenSpeed for several hosts: taken with --from, and named where they stand alone."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from weft.base.errors import ConfigError, UsageError
from weft.cli.args.dialects import take_foreign
from weft.cli.args.flags import values_of
from weft.cli.args.model import _given
from weft.cli.args.parser import CommandParser
from weft.parallel.layout.resolve import resolve

VLLM = "--from vllm -- vllm serve M "
LAST = "--headless --data-parallel-start-rank 2 --data-parallel-address 10.0.0.1 --data-parallel-rpc-port 13345"
WORDS = {
    VLLM + "-tp 4 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --headless": (1, "10.0.0.1:5000", 4),
    VLLM + "-tp 4 --nnodes 2 --node-rank 0 --master-addr h --master-port 29511": (0, "h:29511", 4),
    VLLM + "-dp 4 --data-parallel-size-local 2 --data-parallel-address h": (0, "h:5000", 4),
    VLLM + f"-dp 4 -tp 2 --data-parallel-size-local 2 {LAST}": (1, "10.0.0.1:13345", 8),
    "--from tokenspeed -- tokenspeed serve M --nnodes 2 --node-rank 0 --nprocs-per-node 8 --world-size 16"
    " --dist-init-addr h:25000": (0, "h:25000", 16),
    "--from sglang -- python -m sglang.launch_server --model-path M --tp 16 --nnodes 2 --node-rank 1"
    " --dist-init-addr 10.0.0.1:29500": (1, "10.0.0.1:29500", 16),
}


def parsed(words: str) -> argparse.Namespace:
    parser = CommandParser(prog="weft serve")
    import_module("weft.cli.commands.serve").add_arguments(parser)
    args = parser.parse_command(words.split())
    take_foreign(args)
    return args


@pytest.mark.parametrize("words", WORDS)
def test_they_are_the_same_hosts(words: str) -> None:
    args = parsed(words)
    node, address, world = WORDS[words]
    found = values_of(args.hosts_given)
    assert (found["node_rank"], found["dist_init_addr"]) == (node, address)
    layout = resolve(_given(args), args.world_size, args.tp)
    assert (layout.world, layout.nodes) == (world, 2)


def test_ranks_that_do_not_multiply_are_refused() -> None:
    words = "--from tokenspeed -- tokenspeed serve M --nnodes 2 --node-rank 0 --dist-init-addr h:25000"
    with pytest.raises(ConfigError, match=r"nprocs-per-node 4 x nnodes 2 is not the world of 16 \(legal: 8\)"):
        parsed(f"{words} --nprocs-per-node 4 --world-size 16")


def test_own_words_that_say_something_else_are_refused() -> None:
    words = next(iter(WORDS))
    with pytest.raises(ConfigError, match="node_rank is 1 in the vllm arguments, but --node-rank gives 0; leave one"):
        parsed(f"--node-rank 0 {words}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--master-addr h", "use --dist-init-addr HOST:PORT"),
        ("--master-port 5", "use --dist-init-addr HOST:PORT"),
        ("--data-parallel-address h", "use --dist-init-addr HOST:PORT"),
        ("--headless", "use --node-rank, which is above 0 on every host but the server's"),
        ("--data-parallel-size-local 2", "use --nnodes: ranks are spread over hosts evenly"),
        ("--data-parallel-start-rank 2", "use --node-rank"),
    ],
)
def test_alone_they_name_what_to_use(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option {words.split()[0]}; vLLM's option: {said}"):
        parsed(f"--tp 2 {words} M")
