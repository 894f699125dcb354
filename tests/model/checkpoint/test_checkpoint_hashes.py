"""Known hashes of a model's files: where they come from, what is refused, what is hashed again and what is not."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import make_checkpoint, make_gguf, make_tokenizer, small_config
from tests.support.tiny_chat import CONFIG, write_tiny_chat
from tests.support.waiting import until
from weft.base.errors import CheckpointError, ConfigError, UsageError
from weft.cli.main import main
from weft.frontend.llm import LLM
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub import embedded
from weft.model.checkpoint.integrity.check import check_hashes
from weft.model.checkpoint.integrity.digest_cache import HashingStopped, computed
from weft.model.checkpoint.integrity.known_hashes import DOWNLOADS, MANIFEST, KnownHashes, known_hashes
from weft.runtime.supervisor.start import Starting

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tokenizer(make_checkpoint(tmp_path / "model", small_config(), shards=3))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def listed(folder: Path, form: str = "{digest}  {name}") -> None:
    """Writes what sha256sum would print of every file."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    lines = [form.format(digest=sha256(file.read_bytes()), name=file.name) for file in files]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")


def damage(file: Path) -> None:
    """One bit of its last byte; its size and what its header says stay."""
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def found(path: Path) -> KnownHashes:
    return known_hashes(open_checkpoint(path))


def problems(path: Path, verify: str = "auto") -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        check_hashes(open_checkpoint(path), verify)
    assert caught.value.exit_code == 65
    return caught.value.problems


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file() and file.name != MANIFEST)


@pytest.mark.parametrize("form", ["{digest}  {name}", "{digest} *./{name}", "SHA256 ({name}) = {digest}"])
def test_a_directory_as_its_manifest_says(model: Path, form: str) -> None:
    listed(model, form)
    assert check_hashes(open_checkpoint(model), "strict") == size_of(model)


def test_every_file_that_differs_is_named_with_both_hashes(model: Path) -> None:
    listed(model)
    before = {name: sha256((model / name).read_bytes()) for name in (SHARD, "tokenizer_config.json")}
    damage(model / SHARD)
    (model / "tokenizer_config.json").write_text("{}")
    said = problems(model)
    assert len(said) == 2
    for name, digest in before.items():
        now = sha256((model / name).read_bytes())
        assert f"{model / name}: sha256 {digest} expected ({MANIFEST}), found {now}" in said


def test_what_is_not_read_may_differ_and_be_missing(model: Path) -> None:
    (model / "README.md").write_text("#")
    (model / "consolidated.safetensors").write_bytes(b"another form")
    listed(model)
    (model / "README.md").write_text("##")
    (model / "consolidated.safetensors").unlink()
    assert check_hashes(open_checkpoint(model)) > 0


def test_what_the_manifest_names_and_is_missing_is_refused(model: Path) -> None:
    (model / "generation_config.json").write_text("{}")
    listed(model)
    (model / "generation_config.json").unlink()
    assert problems(model) == (f"{model / 'generation_config.json'}: no such file; {MANIFEST} names it",)


def test_a_shard_that_only_the_manifest_knows_of_is_refused(tmp_path: Path) -> None:
    """Without an index, whatever lies there is the model."""
    folder = make_checkpoint(tmp_path / "m", small_config())
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / MANIFEST).write_text(f"{'0' * 64}  b.safetensors\n")
    assert problems(folder) == (f"{folder / 'b.safetensors'}: no such file; {MANIFEST} names it",)


def test_a_manifest_that_is_none(model: Path) -> None:
    (model / MANIFEST).write_text(f"# of the vendor\n\nnonsense\n{'a' * 64}  {SHARD}\n{'b' * 64}  {SHARD}\n")
    said = problems(model)
    assert len(said) == 2 and "line 3 is none of sha256sum's" in said[0]
    assert f"line 5 gives {SHARD} another hash" in said[1]


def test_a_manifest_of_other_files_is_told(model: Path) -> None:
    (model / MANIFEST).write_text(f"{'a' * 64}  other.bin\n{'b' * 64}  sub/{SHARD}\n\\{'c' * 64}  a\\nb\n")
    said: list[str] = []
    assert check_hashes(open_checkpoint(model), say=said.append) == 0
    assert said == [f"{model / MANIFEST} names none of the files that are read"]


def test_nothing_is_known_of_a_plain_directory(model: Path) -> None:
    said: list[str] = []
    assert check_hashes(open_checkpoint(model), say=said.append) == 0 and said == []
    refused = problems(model, "strict")
    assert len(refused) == 3 and all("no hash of it is known" in line for line in refused)


def test_none_compares_nothing(model: Path) -> None:
    listed(model)
    damage(model / SHARD)
    assert check_hashes(open_checkpoint(model), "none") == 0
    with pytest.raises(ConfigError, match="verify_checkpoint always: legal: auto, strict, none"):
        check_hashes(open_checkpoint(model), "always")


def test_a_file_is_hashed_once_until_it_changes(model: Path) -> None:
    listed(model)
    checkpoint = open_checkpoint(model)
    assert check_hashes(checkpoint) == size_of(model)
    until(lambda: check_hashes(checkpoint) == 0, "files that settled are remembered")
    assert check_hashes(checkpoint, "strict") == size_of(model)
    stat = (model / SHARD).stat()
    damage(model / SHARD)
    os.utime(model / SHARD, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(problems(model)) == 1, "size and time of writing are the same; the time of change is not"
    listed(model)
    assert check_hashes(checkpoint) <= (model / SHARD).stat().st_size


def test_a_memory_that_cannot_be_written_or_read_costs_time_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(model)
    checkpoint = open_checkpoint(model)
    until(lambda: check_hashes(checkpoint) == 0)
    for file in (tmp_path / "cache" / "hashes").iterdir():
        file.write_text("[]")
    assert check_hashes(checkpoint) == size_of(model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "file"))
    assert check_hashes(checkpoint) == check_hashes(checkpoint) == size_of(model)


def test_a_memory_that_is_not_written_whole_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(model)
    checkpoint = open_checkpoint(model)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("weft.model.checkpoint.integrity.digest_cache.os.replace", full)
    folder = tmp_path / "cache" / "hashes"
    until(lambda: check_hashes(checkpoint) == size_of(model) and folder.exists(), "files have settled")
    assert list(folder.iterdir()) == []


def cached(model: Path, hub: Path) -> Path:
    """The directory as a hub's cache keeps it: links to blobs by SHA-256 (weights), or as git names them."""
    snapshot = hub / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for file in model.iterdir():
        data = file.read_bytes()
        blob = hub / "blobs" / (sha256(data) if file.suffix == ".safetensors" else git_sha1(data))
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_blobs_of_a_hub_are_what_their_names_say(model: Path, tmp_path: Path) -> None:
    snapshot = cached(model, tmp_path / "hub")
    assert {each.kind for each in found(snapshot).known} == {"sha256", "git-sha1"}
    assert check_hashes(open_checkpoint(snapshot), "strict") == size_of(model)
    for name, kind in ((SHARD, "sha256"), ("tokenizer_config.json", "git-sha1")):
        blob = (snapshot / name).resolve()
        right = blob.read_bytes()
        blob.write_bytes(right + b" " if name.endswith(".json") else right[:-1] + b"?")
        (said,) = problems(snapshot)
        assert said.startswith(f"{snapshot / name}: {kind} {blob.name} expected (the hub), found ")
        assert said.endswith(f"; delete {blob} to have it fetched again")
        blob.write_bytes(right)


def noted(folder: Path, name: str, etag: str) -> None:
    """As huggingface_hub notes what it downloaded into a directory."""
    file, note = folder / name, folder / DOWNLOADS / f"{name}.metadata"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{'c' * 40}\n{etag}\n{file.stat().st_mtime}\n")


def test_notes_of_a_download_into_a_directory(model: Path) -> None:
    for file in [file for file in model.iterdir() if file.is_file()]:
        data = file.read_bytes()
        noted(model, file.name, sha256(data) if file.suffix == ".safetensors" else git_sha1(data))
    assert check_hashes(open_checkpoint(model), "strict") == size_of(model)
    stat = (model / SHARD).stat()
    damage(model / SHARD)
    os.utime(model / SHARD, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (said,) = problems(model)
    assert f"{model / SHARD}: sha256" in said and said.endswith(f"delete {model / SHARD} and download it again")


def test_a_download_that_a_person_has_changed_is_theirs(model: Path) -> None:
    noted(model, "config.json", "0" * 40)
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    os.utime(model / "config.json", (2e9, 2e9))
    said: list[str] = []
    assert check_hashes(open_checkpoint(model), say=said.append) == 0
    assert said == [f"{model / 'config.json'}: changed after its download, so its hash is not compared with the hub's"]


@pytest.mark.parametrize("note", ["", "x\ny\nz\n", f"{'c' * 40}\n{'d' * 32}\n9e9\n", f"{'c' * 40}\n{'X' * 64}\n9e9\n"])
def test_notes_that_say_nothing(model: Path, note: str) -> None:
    noted(model, SHARD, "")
    (model / DOWNLOADS / f"{SHARD}.metadata").write_text(note)
    assert found(model) == KnownHashes()


def test_a_gguf_and_what_lies_beside_it(tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "m.gguf", {**CONFIG, "vocab_size": 300})
    (tmp_path / MANIFEST).write_text(f"{sha256(file.read_bytes())}  m.gguf\n{'a' * 64}  m-q8.gguf\n")
    assert check_hashes(open_checkpoint(file), "strict") == file.stat().st_size
    damage(file)
    assert len(problems(file)) == 1


def test_the_embedded_model_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    file = make_gguf(tmp_path / "cache" / embedded.SMOLLM2.name, {**CONFIG, "vocab_size": 300})
    (said,) = problems(file)
    assert f"sha256 {embedded.SMOLLM2.sha256} expected (the embedded model)" in said


def test_a_file_that_cannot_be_read_to_its_end(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(model)

    def fails(*_: object) -> dict[str, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("weft.model.checkpoint.integrity.check.computed", fails)
    assert f"{model / SHARD}: Input/output error" in problems(model)


def test_a_person_does_not_have_to_wait(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(model)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weft.model.checkpoint.integrity.check._wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_hashes(open_checkpoint(model))
    kinds: Any = ("sha256",)
    stop = threading.Event()
    stop.set()
    with pytest.raises(HashingStopped):
        computed(model / SHARD, kinds, tmp_path / "memory", stop)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("command", ["serve", "generate", "verify", "bench", "upcycle"])
def test_commands_refuse_before_they_start_anything(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_chat(tmp_path / "tiny")
    listed(model)
    damage(model / "model.safetensors")
    monkeypatch.setattr(Starting, "__init__", lambda *_, **__: pytest.fail("ranks were started"))
    words = {"generate": ["Hello"], "upcycle": ["--out", str(tmp_path / "out")], "serve": ["--port", "0"]}
    assert main([command, str(model), *words.get(command, [])]) == 65
    assert f"{model / 'model.safetensors'}: sha256 " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_python(model: Path) -> None:
    listed(model)
    damage(model / SHARD)
    with pytest.raises(CheckpointError, match=SHARD):
        LLM(model)
    with pytest.raises(UsageError, match="an open checkpoint is taken as it is"):
        LLM(open_checkpoint(model), verify_checkpoint="strict")
