"""`weft verify` on small checkpoints: agreement, the name of the first module that differs, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import weft.parallel.arch.shards as shards
from tests.equivalence.test_injected_faults import bias_added_twice, oldest_key_dropped, partial_dropped_on_one_row
from tests.support.exact_model import write_random
from weft.cli.main import main
from weft.model.layers import LMHead
from weft.parallel.layout.splits import even_splits
from weft.tools.verify import compare

Capture = pytest.CaptureFixture[str]
Monkey = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(tmp_path_factory.mktemp("verify"), "biased"))


def verify(model: str, *words: str) -> int:
    return main(["verify", model, "--tokens", "3", "--comm", "lockstep", *words])


def test_a_sound_layout_agrees(model: str, capsys: Capture) -> None:
    assert verify(model, "--attn-dp-size", "2", "--o-proj-tp-size", "2", "--lm-head-tp-size", "2") == 0
    assert "2 ranks, float32: the layout agrees with one rank" in capsys.readouterr().out


def test_json_says_what_was_compared(model: str, capsys: Capture) -> None:
    assert verify(model, "--tp", "3", "--dtype", "float64", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "weft.verify/1" and found["agrees"] and found["world"] == 3
    assert found["dtype"] == "float64" and found["lockstep"]["largest_difference"] < 1e-10
    assert found["lockstep"]["tokens"] == 15 and found["first_difference"] is None and found["served"] is None
    assert found["verdict"] == "agrees" and found["lockstep"]["asked"] == 15 and found["lockstep"]["decided"] > 7


def test_what_hardly_anything_was_decided_of_is_not_called_agreement(model: str, capsys: Capture) -> None:
    words = ("--tp", "2", "--dtype", "bfloat16", "--quantization", "int4", "--activations", "int8")
    assert verify(model, *words) == 3
    out = capsys.readouterr().out
    assert "2 ranks, bfloat16, matrices in int4: NOT PROVEN: nothing differs, but too few tokens were decided" in out
    assert "of 15 tokens decided and equal" in out and "take --dtype float32" in out
    assert verify(model, *words, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["agrees"], found["lockstep"]["agrees"]) == ("undecided", False, True)
    assert found["lockstep"]["decided"] < 0.5 * found["lockstep"]["asked"]


@pytest.mark.parametrize("backend", ["packed", "plain"])
@pytest.mark.parametrize("variant", ["biased", "experts", "latent"])
def test_codes_of_8_bits_are_those_of_one_rank(tmp_path: Path, capsys: Capture, variant: str, backend: str) -> None:
    """Also of matrices that are cut along the rows that share a scale, experts' among them."""
    model, words = str(write_random(tmp_path, variant)), ["--quantization", "int8", "--dtype", "float32"]
    words += [] if variant == "biased" else ["--moe-backend", backend]
    for layout in (("--tp", "2"), ("--tp", "2", "--attn-dp-size", "2", "--o-proj-tp-size", "4")):
        assert verify(model, *layout, *words) == 0
        assert "the layout agrees with one rank" in capsys.readouterr().out


def test_codes_of_groups_are_named_where_they_make_the_difference(model: str, capsys: Capture) -> None:
    words = ("--tp", "2", "--quantization", "int4", "--dtype", "float32")
    assert verify(model, *words) == 1
    out = capsys.readouterr().out
    assert (
        "DIFFERS" in out
        and "ranks hold other quantized values than one: int4 has a scale for each 32 of what each has" in out
    )
    assert verify(model, *words, "--o-proj-tp-size", "1", "--dense-tp-size", "1") == 0
    assert "other codes" not in capsys.readouterr().out


def test_real_texts_are_advised_where_nothing_is_narrower(model: str, capsys: Capture, monkeypatch: Monkey) -> None:
    monkeypatch.setattr(compare, "LEAST_DECIDED", 1.1)
    assert verify(model, "--tp", "2") == 3
    assert "give other texts (--prompt), or more tokens of each (--tokens)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "words", "module"),
    [
        (bias_added_twice, ("--tp", "2"), None),  # on one rank too: both runs are wrong alike
        (partial_dropped_on_one_row, ("--tp", "2", "--embedding-tp-size", "1"), "layers.0.o_proj"),
    ],
)
def test_the_first_module_that_differs_is_named(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture, fault: object, words: tuple[str, ...], module: str
) -> None:
    assert callable(fault)
    fault(monkeypatch)
    assert verify(model, *words, "--json") == (1 if module else 0)
    found = json.loads(capsys.readouterr().out)["first_difference"]
    assert (found and found["module"]) == module


def test_a_fault_of_the_head_alone_is_named(model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def faulty(self: LMHead, x: torch.Tensor) -> torch.Tensor:
        logits = self.ops.logits(x, self.weight)
        return logits if logits.shape[1] == 101 else logits.roll(1, 1)

    monkeypatch.setattr(LMHead, "forward", faulty)
    assert verify(model, "--tp", "2") == 1
    out = capsys.readouterr().out
    assert "DIFFERS" in out and "first module that differs: lm_head, in prefill" in out


def test_a_wrong_slice_is_named(model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(shards, "even_splits", lambda n, k: even_splits(n, k)[1::-1] + even_splits(n, k)[2:])
    assert verify(model, "--attn-dp-size", "3", "--lm-head-tp-size", "3") == 1
    assert "first module that differs: lm_head" in capsys.readouterr().out


def test_a_fault_of_every_layout_is_not_a_fault_of_this_one(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest_key_dropped(monkeypatch)
    assert verify(model, "--tp", "2") == 0


def test_words_that_make_no_sense(model: str, capsys: Capture, tmp_path: Path) -> None:
    assert main(["verify", model, "--tokens", "0"]) == 78
    assert main(["verify", model, "--prompt", "hello", "--comm", "lockstep"]) == 2
    assert "no tokenizer" in capsys.readouterr().err
    assert main(["verify", model, "--lm-head-tp-size", "3"]) == 78
    capsys.readouterr()
    for words, code, text in (
        ("--served-model-name m", 2, "--served-model-name: verify serves nothing; leave it out"),
        ("--comm lockstep --threads 1", 2, "--threads: ranks in lockstep are no processes; leave it out"),
        ("--max-model-len 4 --tokens 3", 78, "with the longest prompt; max_model_len is 4"),
    ):
        assert main(["verify", model, *words.split()]) == code
        assert text in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing")]) == 65


def test_real_processes_are_compared_too(model: str, capsys: Capture) -> None:
    assert main(["verify", model, "--tokens", "2", "--tp", "2", "--json"]) == 0
    served = json.loads(capsys.readouterr().out)["served"]
    assert served["agrees"] and served["tokens"] == 10 and "replicas" not in served


def test_processes_of_every_replica_are_compared(model: str, capsys: Capture) -> None:
    words = ("--replicas", "2", "--attn-dp-size", "2", "--dense-tp-size", "2")
    assert main(["verify", model, "--tokens", "2", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["world"] == 4 and found["lockstep"]["tokens"] == 10
    assert found["served"]["agrees"] and found["served"]["tokens"] == 20
    assert [one["tokens"] for one in found["served"]["replicas"]] == [10, 10]
