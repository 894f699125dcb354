"""The page's files: all served, none that names another address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.frontend.server.conftest import Running, Start
from tests.frontend.server.page.pages import view_of
from weft.frontend.server.http.config import HttpConfig
from weft.tools.explain.document import json_schema

ROOT = Path(__file__).resolve().parents[4]
STATIC = ROOT / "weft" / "frontend" / "server" / "page" / "static"


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("abc", layout=view_of(4))
    yield running
    running.stop()


def test_every_file_is_served_with_the_policy(server: Running) -> None:
    pages = {"index.html": "/", "docs.html": "/docs"}
    for path in STATIC.iterdir():
        answer = server.http.get(pages.get(path.name, f"/page/{path.name}"))
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert server.http.get("/page/other.js").status_code == server.http.get("/page/index.html").status_code == 404


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_no_file_names_another_address(path: Path) -> None:
    """Nor a script or style in a page, which the policy forbids."""
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|[\"'(]//", text)
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", text) or path.suffix == ".css"
    assert "eval(" not in text and "innerHTML" not in text


def test_the_layout_is_that_of_explain(server: Running) -> None:
    found = server.http.get("/layout").json()
    jsonschema.validate(found, json_schema())
    assert len(found["ranks"]) == 4 and found["schema"] == "weft.explain/3"
    picture = server.http.get("/layout.svg")
    assert picture.headers["content-type"] == "image/svg+xml" and picture.text.startswith("<svg")


def test_the_layout_needs_the_key_and_the_page_none(start_server: Start) -> None:
    server = start_server("abc", layout=view_of(2), http=HttpConfig(api_key="secret", root_path="/llm"))
    try:
        for path in ("/layout", "/layout.svg"):
            assert server.http.get(path).status_code == 401
            assert server.http.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
        for path in ("/", "/llm/", "/docs", "/llm/docs", "/llm/page/page.css"):
            assert server.http.get(path).status_code == 200
    finally:
        server.stop()


def test_a_server_without_a_layout_says_so(alphabet: Running) -> None:
    assert alphabet.http.get("/layout").json()["error"]["code"] == "no_layout"
