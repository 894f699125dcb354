"""Hub ids as MODEL, against a stand-in hub: what is fetched, what never is, faults of hub and network, offline use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.checkpoints import make_gguf, trained_tokenizer
from tests.support.fakes.hub_stand_in import Hub
from tests.support.tiny_chat import CONFIG, write_tiny_chat
from tests.support.waiting import until
from weft.base.errors import CheckpointError, UsageError
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.names import HubModel, hub_model
from weft.model.checkpoint.hub.paths import model_path
from weft.model.checkpoint.integrity.check import check_hashes
from weft.model.checkpoint.integrity.known_hashes import files_read

ROOT = Path(__file__).resolve().parents[3]
FETCH = """
import json, sys
from weft.model.checkpoint.hub.paths import model_path
from weft.base.errors import WeftError
word, revision, weights = json.loads(sys.argv[1])
try:
    print(model_path(word, lambda line: print(line, file=sys.stderr), revision=revision, weights=weights))
except WeftError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
PIECE = 10 << 20
PICKLE = b"\x80\x04never"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("hub")
    tiny = files_of(write_tiny_chat(folder / "tiny"))
    rest = {name: content for name, content in tiny.items() if not name.endswith(".safetensors")}
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    sharded = {"model.safetensors.index.json": json.dumps(index).encode()}
    gguf = make_gguf(folder / "m.gguf", {**CONFIG, "vocab_size": 300}, tokenizer=trained_tokenizer()).read_bytes()
    weights = tiny["model.safetensors"]
    return {
        "some-org/tiny": {
            **tiny,
            "pytorch_model.bin": PICKLE,
            "consolidated.safetensors": b"twice the same",
            "original/model.safetensors": b"another form",
            "modeling_tiny.py": b"import os",
        },
        "some-org/sharded": {**rest, **sharded, "model-00001-of-00001.safetensors": weights, "x.safetensors": b""},
        "some-org/torn": {**rest, **sharded},
        "some-org/evil": {**rest, "model.safetensors.index.json": b'{"weight_map": {"a": "x.bin"}}', "x.bin": PICKLE},
        "some-org/pickled": {**rest, "pytorch_model.bin": PICKLE},
        "some-org/quants": {"m-q8.gguf": gguf, "m-q4.gguf": gguf, "README.md": b"#"},
    }


@pytest.fixture
def hub(contents: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    with Hub(contents) as running:
        yield running


def starting(
    hub: Hub, cache: Path, word: str, *, revision: str | None = None, weights: bool = True, **env: str
) -> subprocess.Popen[str]:
    """In a process of its own: huggingface_hub reads its environment once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    patient = {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "120"}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps([word, revision, weights])],
        env={**kept, **patient, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass
class Done:
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str


def fetch(hub: Hub, cache: Path, word: str, *, revision: str | None = None, weights: bool = True, **env: str) -> Done:
    """Fetches a model and waits for it."""
    with starting(hub, cache, word, revision=revision, weights=weights, **env) as process:
        try:
            stdout, stderr = process.communicate(timeout=240)
        finally:
            process.kill()
    return Done(process.returncode, stdout, stderr)


def test_a_model_is_fetched_once_and_opens(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "some-org/tiny")
    assert done.returncode == 0, done.stderr
    assert f"model some-org/tiny from {hub.url}: 4 files" in done.stderr
    checkpoint = open_checkpoint(done.stdout.strip())
    assert checkpoint.config == CONFIG and checkpoint.tokenizer is not None
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert set(hub.asked) == wanted
    again = fetch(hub, tmp_path, "some-org/tiny", revision="main")
    assert again.stdout == done.stdout and set(hub.asked.values()) == {1}


INTO = """
import sys, huggingface_hub
huggingface_hub.snapshot_download("some-org/tiny", local_dir=sys.argv[1])
"""


def test_what_was_fetched_is_compared_with_what_the_hub_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of blobs in the cache, and by huggingface_hub's own notes where it downloads into a directory."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "weft"))
    cached = Path(fetch(hub, tmp_path / "hub", "some-org/tiny").stdout.strip())
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "other"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", INTO, str(tmp_path / "into")], env=env, check=True, capture_output=True)
    for folder in (cached, tmp_path / "into"):
        checkpoint, file = open_checkpoint(folder), folder / "model.safetensors"
        assert check_hashes(checkpoint, "strict") == sum(file.stat().st_size for file in files_read(checkpoint))
        stat, data = file.stat(), file.read_bytes()
        with file.open("r+b") as written:
            written.write(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(CheckpointError, match="model.safetensors: sha256 .* expected .the hub., found"):
            check_hashes(checkpoint)


def test_only_the_named_shards_are_fetched(hub: Hub, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path, "some-org/sharded").returncode == 0
    assert {name for name in hub.asked if "safetensors" in name} == {
        "model.safetensors.index.json",
        "model-00001-of-00001.safetensors",
    }


def test_a_configuration_alone(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "some-org/tiny", weights=False)
    assert json.loads((Path(done.stdout.strip()) / "config.json").read_text()) == CONFIG
    assert "model.safetensors" not in hub.asked


def test_one_gguf_of_several(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "some-org/quants:m-q4.gguf")
    assert done.returncode == 0, done.stderr
    assert open_checkpoint(done.stdout.strip()).kind == "gguf"
    assert set(hub.asked) == {"m-q4.gguf"}


def test_all_parts_of_the_one_that_is_named(hub: Hub, tmp_path: Path, contents: dict[str, dict[str, bytes]]) -> None:
    names = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    contents["some-org/parts"] = {name: name.encode() for name in names}
    done = fetch(hub, tmp_path, f"some-org/parts:{names[1]}")
    assert done.returncode == 0 and {*hub.asked} == {*names}, done.stderr
    assert Path(done.stdout.strip()).name == names[1]
    del contents["some-org/parts"][names[2]]
    assert f"the repository has no {names[2]}" in fetch(hub, tmp_path / "other", f"some-org/parts:{names[1]}").stderr
    del contents["some-org/parts"]


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, contents: dict[str, dict[str, bytes]]
) -> None:
    """huggingface_hub keeps what it has in whole pieces of 10 MiB."""
    big = random.Random(0).randbytes(PIECE + 5000)
    contents["some-org/quants"]["big.gguf"] = big
    hub.cut_after["big.gguf"] = PIECE + 1000
    done = fetch(hub, tmp_path, "some-org/quants:big.gguf")
    del contents["some-org/quants"]["big.gguf"]
    assert done.returncode == 0, done.stderr
    assert hub.ranges == [f"bytes={PIECE}-"]
    assert Path(done.stdout.strip()).read_bytes() == big


def test_a_killed_download_starts_again_with_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    hub.stall.add("model.safetensors")
    with starting(hub, tmp_path, "some-org/tiny") as process:
        wanted = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
        until(lambda: process.poll() is not None or wanted <= set(hub.asked))
        assert process.poll() is None
        until(lambda: len(list(tmp_path.glob("hub/models--some-org--tiny/snapshots/*/*.json"))) == 3)
        process.kill()
    done = fetch(hub, tmp_path, "some-org/tiny")
    assert done.returncode == 0, done.stderr
    assert hub.asked == {"model.safetensors": 2, "config.json": 1, "tokenizer.json": 1, "tokenizer_config.json": 1}
    open_checkpoint(done.stdout.strip())


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("some-org/nothing", 65, "no such model for you (for a private one, give your token in HF_TOKEN)"),
        ("some-org/pickled", 65, "no safetensors (pytorch_model.bin is a pickle, which weft never opens: convert it"),
        ("some-org/torn", 65, "model-00001-of-00001.safetensors: named by model.safetensors.index.json, not in the"),
        ("some-org/evil", 65, "x.bin: not safetensors"),
        ("some-org/quants", 65, "no config.json; its .gguf files: m-q4.gguf, m-q8.gguf; name one: some-org/quants:"),
        ("some-org/quants:none.gguf", 65, "has no none.gguf; its .gguf files: m-q4.gguf, m-q8.gguf"),
        ("some-org/a--b", 65, "not a path, and not a hub id"),
    ],
)
def test_what_cannot_be_served_is_named(hub: Hub, tmp_path: Path, word: str, code: int, said: str) -> None:
    done = fetch(hub, tmp_path, word)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr and not any(name.endswith(".bin") for name in hub.asked)


@pytest.mark.parametrize(
    ("status", "error", "code", "said"),
    [
        (403, "GatedRepo", 65, "gated; accept its terms on"),
        (401, "RepoNotFound", 65, "no such model for you"),
        (500, "Broken", 69, "answers 500"),
    ],
)
def test_answers_of_the_hub_that_refuse(
    hub: Hub, tmp_path: Path, status: int, error: str, code: int, said: str
) -> None:
    hub.status["some-org/tiny"] = (status, error)
    done = fetch(hub, tmp_path, "some-org/tiny")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


HOSTILE: list[dict[str, object]] = [
    {"headers": {"ETag": '"../../../../../../OUTSIDE"'}},
    {"headers": {"ETag": '"a/b"'}},
    {"headers": {"X-Linked-Etag": '"..\\\\x"'}},
    {"headers": {"X-Repo-Commit": "../" * 12 + "1111"}},
    {"sha": "../../../0000000000000000000000000000001"},
    {"more": ["../outside.json"]},
    {"more": ["/outside.json"]},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
def test_names_that_lead_out_of_the_cache_are_refused(
    hostile: dict[str, object], contents: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    with Hub(contents, **hostile) as hub:  # type: ignore[arg-type]
        home = tmp_path / "a" / "b" / "home"
        done = fetch(hub, home, "some-org/tiny")
    assert done.returncode == 65 and "no name of a file" in done.stderr and "Traceback" not in done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(home) for path in files)
    assert not any(path.name == "model.safetensors" for path in files)


def test_an_unknown_revision(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "some-org/tiny", revision="v9")
    assert done.returncode == 65 and "has the model, but not this revision" in done.stderr


def test_without_a_network_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    first = fetch(hub, tmp_path, "some-org/tiny")
    hub.close()
    down = fetch(hub, tmp_path, "some-org/tiny")
    assert down.stdout == first.stdout and "as it is in the cache is used" in down.stderr
    offline = fetch(hub, tmp_path, "some-org/tiny", HF_HUB_OFFLINE="1")
    assert (offline.stdout, offline.stderr) == (first.stdout, "")


def test_without_a_network_and_without_a_cache(hub: Hub, tmp_path: Path) -> None:
    offline = fetch(hub, tmp_path, "some-org/tiny", HF_HUB_OFFLINE="1")
    assert offline.returncode == 69 and "HF_HUB_OFFLINE forbids" in offline.stderr and not hub.asked
    hub.close()
    down = fetch(hub, tmp_path, "some-org/tiny")
    assert down.returncode == 69 and f"{hub.url} cannot be reached" in down.stderr, down.stderr


def test_a_cache_with_the_configuration_only_is_not_the_model(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path, "some-org/tiny", weights=False)
    offline = fetch(hub, tmp_path, "some-org/tiny", HF_HUB_OFFLINE="1")
    assert offline.returncode == 69 and "not whole in the cache" in offline.stderr


@pytest.mark.parametrize(
    ("word", "model"),
    [
        ("org/name", HubModel("org/name")),
        ("org/name:a/b.gguf", HubModel("org/name", "a/b.gguf")),
        ("org/na.me-1_x", HubModel("org/na.me-1_x")),
        ("name", None),
        ("./org", None),
        ("../org", None),
        ("/org/name", None),
        ("a/b/c", None),
        ("dir/model.gguf", None),
        ("org/name:", None),
        ("org/name:x.bin", None),
        ("org/name\n", None),
    ],
)
def test_which_words_are_hub_ids(word: str, model: HubModel | None) -> None:
    assert hub_model(word) == model


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_path("org/name") == Path("org/name")
    with pytest.raises(UsageError, match="--revision v1: only a model on a hub"):
        model_path("org/name", revision="v1")


@pytest.mark.parametrize("word", ["nowhere", "/no/such/model", "dir/model.gguf"])
def test_a_path_that_does_not_exist(word: str) -> None:
    with pytest.raises(CheckpointError, match="no such file or directory, and not a hub id"):
        model_path(word)
