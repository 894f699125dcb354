"""Models of a hub (org/name, org/name:file.gguf), fetched into huggingface_hub's cache.

Fetches config, tokenizer and safetensors files by name, or the one GGUF that was named; never a file that is a pickle.
Endpoint, token and cache are huggingface_hub's own settings.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from weft.base.errors import CheckpointError, UnavailableError, WeftError
from weft.model.checkpoint.directory import CONFIG, INDEX, SINGLE, TEXT, pickle_among
from weft.model.checkpoint.files import FileFault
from weft.model.checkpoint.gguf.part_names import part_names
from weft.model.checkpoint.hub.client import check_answers
from weft.model.checkpoint.hub.names import HubModel, Say
from weft.model.checkpoint.safetensors.weight_files import read_index

_CLIENT_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""What huggingface_hub's HTTP client raises; which client that is differs between its versions."""


def fetch(model: HubModel, say: Say = lambda _: None, *, weights: bool = True) -> Path:
    """Path of the model in the cache, after fetching what the cache lacks."""
    check_answers()
    with _clear_errors(model):
        if constants.HF_HUB_OFFLINE:
            return _cached(model, weights)
        try:
            sizes = _listed(model)
        except (_CLIENT_ERROR, OSError) as error:
            if isinstance(error, errors.HfHubHTTPError):
                raise
            path = _cached_or(model, weights, error)
            say(f"the hub cannot be reached ({_first_line(error)}); {model} as it is in the cache is used")
            return path
        names = _wanted(model, sizes, weights)
        say(f"model {model} from {_host()}: {len(names)} files, {sum(sizes[name] for name in names) / 1e6:,.1f} MB")
        return _place(model, _snapshot(model, names))


def _listed(model: HubModel) -> dict[str, int]:
    """Every file of the model's repository and its size in bytes."""
    api = huggingface_hub.HfApi()
    info = api.model_info(model.repo, revision=model.revision, files_metadata=True)
    return {item.rfilename: item.size or 0 for item in info.siblings or ()}


def _wanted(model: HubModel, sizes: dict[str, int], weights: bool) -> list[str]:
    """The files to fetch, by name; CheckpointError where there is nothing that weft can load."""
    if model.file is not None:
        parts = part_names(model.file)
        for name in parts:
            if name not in sizes:
                found = sorted(name for name in sizes if name.endswith(".gguf"))
                raise CheckpointError(f"model {model}: the repository has no {name}; {_listing(found, '.gguf')}")
        return parts
    if "config.json" not in sizes:
        found = sorted(name for name in sizes if name.endswith(".gguf"))
        hint = f"; name one: {model.repo}:{found[0]}" if found else ""
        raise CheckpointError(f"model {model}: the repository has no config.json; {_listing(found, '.gguf')}{hint}")
    names = [name for name in (*CONFIG, *TEXT) if name in sizes]
    return names + _weight_files(model, sizes) if weights else names


def _weight_files(model: HubModel, sizes: dict[str, int]) -> list[str]:
    """The safetensors that a directory with these files would be read from (see `directory`)."""
    if SINGLE in sizes:
        return [SINGLE]
    if INDEX in sizes:
        return [INDEX, *_indexed(model, sizes)]
    names = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    if not names:
        raise CheckpointError(f"model {model}: the repository has no safetensors{pickle_among(sizes)}")
    return names


def _indexed(model: HubModel, sizes: dict[str, int]) -> list[str]:
    file = Path(huggingface_hub.hf_hub_download(model.repo, INDEX, revision=model.revision))
    try:
        names = sorted({*read_index(file).values()})
    except (FileFault, FileNotFoundError) as fault:
        raise CheckpointError(f"model {model}: {INDEX}: {fault}") from None
    missing = [str(name) for name in names if name not in sizes]
    unsafe = [str(name) for name in names if not str(name).endswith(".safetensors")]
    if missing or unsafe:
        problems = [f"{name}: named by {INDEX}, not in the repository" for name in missing]
        raise CheckpointError(
            f"model {model}: incomplete on the hub", [*problems, *(f"{name}: not safetensors" for name in unsafe)]
        )
    return names


def _snapshot(model: HubModel, names: Sequence[str], *, offline: bool = False) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            model.repo,
            revision=model.revision,
            allow_patterns=[glob.escape(name) for name in names],
            local_files_only=offline,
        )
    )


def _cached(model: HubModel, weights: bool) -> Path:
    """The model as the cache has it; files that are missing there are reported when the checkpoint is opened."""
    names = part_names(model.file) if model.file is not None else [*CONFIG, *TEXT]
    place = _place(model, _snapshot(model, names, offline=True))
    if not (place if model.file is not None else place / "config.json").is_file():
        raise errors.LocalEntryNotFoundError(f"{model}: not in the cache")
    if weights and model.file is None and not list(place.glob("*.safetensors")):
        raise errors.LocalEntryNotFoundError(f"{model}: weights not in the cache")
    return place


def _cached_or(model: HubModel, weights: bool, error: Exception) -> Path:
    """The cached model, or `error`: why the hub cannot be reached is more useful than what the cache lacks."""
    try:
        return _cached(model, weights)
    except errors.LocalEntryNotFoundError:
        raise error from None


def _place(model: HubModel, snapshot: Path) -> Path:
    return snapshot if model.file is None else snapshot / model.file


@contextmanager
def _clear_errors(model: HubModel) -> Iterator[None]:
    """Turns exceptions of huggingface_hub into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError, _CLIENT_ERROR) as error:
        if isinstance(error, WeftError):
            raise
        raise _explained(model, error) from error


def _explained(model: HubModel, error: Exception) -> WeftError:
    host = _host()
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"model {model}: gated; accept its terms on {host}/{model.repo} and give your token in HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"model {model}: no such file or directory, and {host} has no such model for you"
            " (for a private one, give your token in HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"model {model}: {host} has the model, but not this revision")
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(f"model {model}: not a path, and not a hub id: {_first_line(error)}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UnavailableError(f"model {model}: not whole in the cache, and HF_HUB_OFFLINE forbids to fetch it")
    if isinstance(error, errors.HfHubHTTPError):
        return UnavailableError(f"model {model}: {host} answers {error.response.status_code}: {_first_line(error)}")
    if isinstance(error, (_CLIENT_ERROR, ConnectionError, TimeoutError)):
        return UnavailableError(f"model {model}: no such path, and {host} cannot be reached: {_first_line(error)}")
    return UnavailableError(f"model {model}: fetching from {host} failed: {_first_line(error)}")


def _host() -> str:
    return str(constants.ENDPOINT)


def _listing(names: Sequence[str], kind: str) -> str:
    return f"its {kind} files: {', '.join(names[:8])}" if names else f"nor any {kind} file"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
