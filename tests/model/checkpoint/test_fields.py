"""The typed reader of a model's files, and text of files on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import make_checkpoint, small_config
from weft.base.errors import MOST_PROBLEMS, CheckpointError, ConfigError, FieldError
from weft.base.fields import Fields
from weft.base.printable import printable, printable_lines, without_controls
from weft.base.step.defaults import recommended
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.files import FileFault, read_object
from weft.parallel.arch import parse_config


def test_attention_in_both_directions_is_refused() -> None:
    with pytest.raises(FieldError, match="is_causal.*both directions"):
        parse_config({**small_config(), "is_causal": False})


def test_numbers_and_texts_that_no_process_can_be_sent(tmp_path: Path) -> None:
    """transformers writes 10^30 where a tokenizer has no limit."""
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"model_max_length": 1000000000000000019884624838656, "least": -9223372036854775808}')
    assert read_object(path) == {"model_max_length": 1e30, "least": -(2**63)}
    path.write_text('{"model_max_length": "\\ud800"}')
    with pytest.raises(FileFault, match="surrogate"):
        read_object(path)


YARN = {"rope_type": "yarn", "factor": 4.0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
READERS: tuple[Callable[[Fields], object], ...] = (
    lambda f: f.whole("x"),
    lambda f: f.number("x", high=2.0),
    lambda f: f.flag("x", False),
    lambda f: f.text("x", "", longest=5),
    lambda f: f.word("x", ("default", "yarn"), "default"),
    lambda f: f.texts("x"),
    lambda f: f.wholes("x"),
    lambda f: f.ids("x", 100),
    lambda f: f.inner("x"),
)


@given(value=JSON)
def test_a_value_is_of_its_kind_or_refused_in_one_line(value: Any) -> None:
    for read in READERS:
        try:
            read(Fields({"x": value}, "config.json"))
        except FieldError as error:
            assert error.exit_code == 65 and error.field == "x"
            assert str(error).startswith("config.json: x ") and "legal: " in str(error)
            assert str(error).isprintable() and len(str(error)) < 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads 0: legal: a whole number from 1 to 16384; nearest: 1"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers of 100 bits: legal: a whole number from 1 to 4096"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan: legal: a number of 0 or more, 1 at most"),
        ({"rope_theta": -1}, "rope_theta -1: legal: a number above 1"),
        ({"rope_scaling": {"rope_type": "yarm"}}, "rope_scaling: rope_type 'yarm': legal: .*; did you mean yarn?"),
        (
            {"rope_scaling": {"rope_type": "linear"}},
            "rope_scaling: factor is missing; legal: a number of 1e-06 or more",
        ),
        ({"rope_scaling": YARN | {"beta_fast": 1e308}}, "beta_fast 1e.308: legal: .* at most; nearest: 1e.09"),
        ({"rope_scaling": YARN | {"beta_slow": 1e-320}}, "beta_slow .*: legal: a number of 1e-06 or more"),
        ({"rope_scaling": YARN | {"mscale": 1e308}}, "mscale 1e.308: legal"),
        ({"rope_scaling": {"type": "linear", "factor": 1e-300}}, "factor 1e-300: legal: a number of 1e-06 or more"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, "dynamic: heads with 2 rotated dims"),
        ({"rope_scaling": [1]}, "rope_scaling .*legal: an object"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes': legal: true or false"),
        ({"vocab_size": 3.5}, "vocab_size 3.5: legal: a whole number"),
        ({"torch_dtype": "int8"}, "torch_dtype 'int8': legal: float32, float16, bfloat16, float64"),
        ({"head_dim": 7}, "head_dim 7: rotary embedding needs an even one"),
        ({"architectures": "LlamaForCausalLM"}, "architectures 'LlamaForCausalLM': legal: a list of strings"),
        ({"model_type": "qwen2"}, "model_type 'qwen2': legal: llama; architectures names LlamaForCausalLM"),
        ({"eos_token_id": -1}, "eos_token_id -1: legal: a token id or a list of ids"),
        ({"quantization_config": "fp8"}, "quantization_config 'fp8': legal: an object"),
        ({"hidden_act": "\x1b[31mred"}, r"hidden_act \\x1b\[31mred: only silu is supported"),
    ],
)
def test_fields_of_a_config(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError, match=words) as caught:
        parse_config(small_config(**changes), "m/config.json")
    assert str(caught.value).startswith("m/config.json: ") and isinstance(caught.value, ConfigError | CheckpointError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": -0.5}, "temperature -0.5: legal: a number from 0 to"),
        ({"top_p": "0.9"}, "top_p 0.9: legal"),
        ({"top_k": 2.5}, "top_k 2.5: legal: a whole number"),
        ({"repetition_penalty": 0}, "repetition_penalty 0: legal: a number from"),
    ],
)
def test_defaults_that_every_request_would_be_refused_for(values: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError, match=f"m/generation_config.json: {words}"):
        recommended(values, "m/generation_config.json")


def test_sampling_that_the_model_turns_off_is_greedy(tmp_path: Path) -> None:
    values = {"do_sample": False, "temperature": 0.7, "top_k": 5, "repetition_penalty": 1.1}
    assert recommended(values) == {"temperature": 0.0, "repetition_penalty": 1.1}
    make_checkpoint(tmp_path, small_config())
    (tmp_path / "generation_config.json").write_text(json.dumps({**values, "eos_token_id": 7}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.eos_token_ids() == (7,)
    assert [note.partition("generation_config.json: ")[2].split(" ")[0] for note in checkpoint.notes] == [
        "eos_token_id",
        "do_sample",
    ]


@pytest.mark.parametrize("content", ["[" * 10**6, "{" * 10, '{"a": 1', "3", "\ud800", '{"a": 1}' + " " * (5 << 20)])
def test_files_that_are_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content, errors="surrogatepass")
    with pytest.raises(FileFault):
        read_object(tmp_path / "x.json")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place, words in ((tmp_path / "fifo", "a FIFO"), (tmp_path, "a directory"), (Path("/dev/zero"), "a device")):
        with pytest.raises(FileFault, match=words):
            read_object(place)


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[2J\nb\u202ec\x9bd") == "a\\x1b[2J\\nb\\u202ec\\x9bd"
    assert printable_lines("a\tb\nc\x07") == "a\\tb\nc\\x07"
    assert without_controls("a\tb\n👩‍👩‍👧 \x1b]0;x\x07") == "a\tb\n👩‍👩‍👧 \\x1b]0;x\\x07"
    assert printable("x" * 5000) == "x" * 1000 + "..."


def test_many_problems_are_few_lines() -> None:
    error = CheckpointError("checkpoint m", [f"tensor {i}\n\x1b[31m" for i in range(500)])
    lines = str(error).splitlines()
    assert len(lines) == MOST_PROBLEMS + 2 <= 12 and lines[-1] == "  and 490 more"
    assert all(line.isprintable() for line in lines) and len(error.problems) == 500
