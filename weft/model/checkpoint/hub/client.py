"""The HTTP client of huggingface_hub, with a check of names that the library makes paths of.

An etag and a commit become names of files in the cache. The library takes them as they come, so an answer with `../` in
one of them would be written outside the cache.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub.utils import _http

from weft.base.errors import CheckpointError

_ETAG = re.compile(r'(?:W/)?"?[A-Za-z0-9][A-Za-z0-9._+=:-]{0,255}"?')
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADERS = {"etag": _ETAG, "x-linked-etag": _ETAG, "x-repo-commit": _COMMIT}


def check_answers() -> None:
    """Makes every client of huggingface_hub in this process check the answers of hubs."""
    huggingface_hub.set_client_factory(_client)


def _client() -> Any:
    client = _http.default_client_factory()
    client.event_hooks["response"] = [*client.event_hooks["response"], _check]
    return client


def _check(response: Any) -> None:
    """CheckpointError: a name in the answer is none that may become a path."""
    for header, legal in _HEADERS.items():
        value = response.headers.get(header)
        if value is not None and not legal.fullmatch(value):
            _refuse(response, header, value)
    if (
        response.status_code == 200
        and "/api/models/" in response.url.path
        and "json" in response.headers.get("content-type", "")
    ):
        response.read()
        _check_listing(response, response.json())


def _check_listing(response: Any, listing: object) -> None:
    entries = listing if isinstance(listing, list) else [listing]
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        if isinstance(sha := entry.get("sha"), str) and not _COMMIT.fullmatch(sha):
            _refuse(response, "sha", sha)
        files = [each.get("rfilename") for each in entry.get("siblings") or [] if isinstance(each, dict)]
        for name in (*files, entry.get("path")):
            if isinstance(name, str) and (name.startswith("/") or ".." in PurePosixPath(name).parts):
                _refuse(response, "file", name)


def _refuse(response: Any, what: str, value: str) -> None:
    raise CheckpointError(
        f"the hub {response.url.host} gave a {what} that is no name of a file: {value[:80]!r}; nothing was written"
    )
