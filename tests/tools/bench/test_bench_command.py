"""What `weft bench` plans, and says to the server that it starts. Starts none."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat
from weft.cli.commands.bench import _host, _plans, add_arguments
from weft.model.checkpoint import open_checkpoint

EXPERTS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_layouts_of_a_model_with_experts_are_compared(tmp_path: Path) -> None:
    model = write_tiny_chat(tmp_path / "m", **EXPERTS)
    files = []
    for name, experts in (("sliced", "{tp: 2}"), ("dealt", "{ep: 2}")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"attention: {{tp: 2}}\nexperts: {experts}\n")
    plans = _plans(parsed(str(model), "--compare", *map(str, files)), open_checkpoint(model))
    found = {name: plan.layout.experts for name, plan in plans.items()}
    assert {name: experts and (experts.tp, experts.ep) for name, experts in found.items()} == {
        "sliced": (2, 1),
        "dealt": (1, 2),
    }


@pytest.mark.parametrize("verify", ["none", "strict", "auto"])
def test_the_server_takes_the_models_files_as_the_command_does(tmp_path: Path, verify: str) -> None:
    model = write_tiny_chat(tmp_path / "m")
    words = list(_host(parsed(str(model), "--verify-checkpoint", verify), open_checkpoint(model)).words)
    assert words[words.index("--verify-checkpoint") + 1] == verify
