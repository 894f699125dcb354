"""Model directories: what is read, and every fault found at once."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.support.checkpoints import make_checkpoint, make_tokenizer, small_config
from weft.base.errors import MOST_PROBLEMS, CheckpointError
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.safetensors.header import read_header


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert all(problem in str(caught.value) for problem in caught.value.problems[:MOST_PROBLEMS])
    return caught.value.problems


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path: Path, entries: dict[str, Any], data: bytes) -> None:
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_table_says_where_the_bytes_are(tmp_path: Path, shards: int, dtype: str) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, small_config(), shards=shards, dtype=dtype))
    files = {tensor.file for tensor in checkpoint.tensors.values()}
    assert len(files) == shards
    seen = 0
    for file in files:
        data = Path(file).read_bytes()
        with safe_open(file, "pt") as reader:
            for name in reader.keys():
                wanted, info = reader.get_tensor(name), checkpoint.tensors[name]
                assert info.shape == tuple(wanted.shape)
                assert info.dtype == {"float32": "F32", "bfloat16": "BF16", "float64": "F64"}[dtype]
                got = torch.frombuffer(bytearray(data[info.offset : info.end]), dtype=wanted.dtype)
                assert torch.equal(got.view(wanted.shape), wanted)
                seen += 1
    assert seen == len(checkpoint.tensors)


def test_config_files_and_tokenizer_source(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config())
    make_tokenizer(tmp_path, chat_template="{{ 'x' }}", add_bos_token=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0]}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.kind == "safetensors"
    assert checkpoint.config["hidden_size"] == 288
    assert checkpoint.eos_token_ids() == (0, 5)
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.chat_templates == {"default": "{{ 'x' }}"}
    assert checkpoint.tokenizer.config["add_bos_token"] is True
    (tmp_path / "chat_template.jinja").write_text("from the file")
    source = open_checkpoint(tmp_path).tokenizer
    assert source is not None and source.chat_templates["default"] == "from the file"


def test_end_ids_must_be_ids(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config())
    (tmp_path / "config.json").write_text(json.dumps(small_config(eos_token_id=["</s>"])))
    with pytest.raises(CheckpointError, match="legal: a token id or a list of ids"):
        open_checkpoint(tmp_path)


def test_list_of_templates(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config())
    named: list[Any] = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    make_tokenizer(tmp_path, chat_template=[*named, {"name": "x"}, 3])
    assert "chat_template" in problems(tmp_path)[0]
    make_tokenizer(tmp_path, chat_template=named)
    source = open_checkpoint(tmp_path).tokenizer
    assert source is not None and source.chat_templates == {"default": "a", "tool_use": "b"}


def test_table_round_trip_needs_no_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_tokenizer(make_checkpoint(tmp_path, small_config())))
    table = checkpoint.table()
    for file in tmp_path.iterdir():
        file.unlink()
    again = Checkpoint.from_table(table)
    assert again.tokenizer is None
    assert (again.path, again.kind, again.config, again.tensors) == (
        checkpoint.path,
        checkpoint.kind,
        checkpoint.config,
        checkpoint.tensors,
    )


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one = open_checkpoint(make_checkpoint(tmp_path / "a", small_config()))
    same = open_checkpoint(make_checkpoint(tmp_path / "b", small_config()))
    wider = open_checkpoint(make_checkpoint(tmp_path / "c", small_config(intermediate_size=96)))
    other = open_checkpoint(make_checkpoint(tmp_path / "d", small_config(rope_theta=5e5)))
    assert one.fingerprint() == same.fingerprint()
    assert len({one.fingerprint(), wider.fingerprint(), other.fingerprint()}) == 3


def test_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_checkpoint(tmp_path / "absent")


def test_empty_directory_names_all_that_is_missing(tmp_path: Path) -> None:
    found = problems(tmp_path)
    assert any("config.json: no such file" in line for line in found)
    assert any("no model.safetensors" in line for line in found)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_named_and_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"x")
    assert any(f"{name} is a pickle" in line for line in problems(tmp_path))


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_config_must_be_an_object(tmp_path: Path, text: str) -> None:
    make_checkpoint(tmp_path, small_config())
    (tmp_path / "config.json").write_text(text)
    assert [line for line in problems(tmp_path) if str(tmp_path / "config.json") in line]


def test_all_missing_shards_are_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=4)
    for number in (2, 3):
        (tmp_path / f"model-{number:05d}-of-00004.safetensors").unlink()
    found = problems(tmp_path)
    assert len(found) == 2
    assert all("no such file; model.safetensors.index.json puts" in line for line in found)


def test_numbered_files_without_an_index(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=3)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(tmp_path).tensors) == 21
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert any("model-00002-of-00003.safetensors: no such file" in line for line in problems(tmp_path))


def test_several_unnumbered_files(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=2)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model-00001-of-00002.safetensors").rename(tmp_path / "a.safetensors")
    assert any("several *.safetensors" in line for line in problems(tmp_path))


def test_index_names_a_tensor_that_its_file_lacks(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    assert any("ghost.weight: named by" in line for line in problems(tmp_path))


def test_index_may_not_leave_the_directory(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=2)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../model.safetensors", "b": "/x"}}))
    assert len([line for line in problems(tmp_path) if "is not the name of a file in this directory" in line]) == 2
    path.write_text(json.dumps({"weight_map": {"b": 3}}))
    assert "weight_map is not as it should be" in problems(tmp_path)[0]


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, small_config(), shards=2)
    file = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"lm_head.weight": torch.zeros(2), "model.embed_tokens.weight": torch.zeros(2)}, file)
    assert any("also in" in line for line in problems(tmp_path))


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_truncated_header(tmp_path: Path, keep: int) -> None:
    file = make_checkpoint(tmp_path, small_config()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert any("truncated" in line for line in problems(tmp_path))


def test_truncated_data_names_each_tensor_cut(tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path, small_config()) / "model.safetensors"
    ends = sorted(tensor.end for tensor in open_checkpoint(tmp_path).tensors.values())
    file.write_bytes(file.read_bytes()[: ends[-3] + 1])
    found = problems(tmp_path)
    assert len(found) == 2 and all("truncated: ends at byte" in line for line in found)


def test_bytes_that_belong_to_no_tensor(tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path, small_config()) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    assert any("its tensors account for" in line for line in problems(tmp_path))


def test_overlap_and_wrong_lengths(tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path, small_config()) / "model.safetensors"
    entries, data = header(file)
    names = [name for name in entries if name != "__metadata__"]
    first = entries[names[0]]
    entries["twin"] = {**first, "shape": [4], "dtype": "U8", "data_offsets": [first["data_offsets"][0]] * 2}
    entries["twin"]["data_offsets"] = [first["data_offsets"][0] + 4, first["data_offsets"][0] + 8]
    entries["short"] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}
    entries["odd"] = {"dtype": "Z9", "shape": [2], "data_offsets": [0, 4]}
    entries["bad"] = {"shape": [2]}
    entries["negative"] = {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}
    rewrite(file, entries, data)
    found = problems(tmp_path)
    for words in (
        "twin begins at byte",
        "short: F32 [2] takes 8 bytes",
        "unknown dtype Z9",
        "lacks dtype",
        "negative: ",
    ):
        assert any(words in line for line in found), words


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff\xfe"])
def test_header_that_is_no_object(tmp_path: Path, text: bytes) -> None:
    file = make_checkpoint(tmp_path, small_config()) / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    assert any("its header is not" in line for line in problems(tmp_path))


def test_damaged_files_are_never_a_traceback(tmp_path: Path) -> None:
    """Every byte of a small header, changed: the file opens, or every fault has a line."""
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, file)
    whole = file.read_bytes()
    refused = 0
    for at in range(len(whole) - 32):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])
        found = read_header(file)
        refused += bool(found.problems)
    assert refused > len(whole) // 3
