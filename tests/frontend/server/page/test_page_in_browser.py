"""The page in a real browser: narrow and wide, light and dark, with two ranks and with thousands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, Start
from tests.frontend.server.page.pages import axe, chromium, reports_of, view_of, violations
from tests.support.waiting import PATIENCE_S
from weft.frontend.server.http.config import HttpConfig

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.long
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def opened(browser: Any, url: str, width: int = 1400, scheme: str = "light") -> Iterator[Any]:
    """A page; at its end nothing has gone elsewhere, and nothing was forbidden."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(1000 * PATIENCE_S)
    context.add_init_script(axe())
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    try:
        yield page
        origin = re.match(r"https?://[^/]+/", url)
        assert origin and asked and all(one.startswith((origin[0], f"blob:{origin[0]}")) for one in asked)
        assert [line for line in said if not re.search("responded with a status of 4", line)] == []
    finally:
        context.close()


@pytest.fixture(scope="module", params=[2, 4096])
def served(start_server: Start, request: pytest.FixtureRequest) -> Iterator[tuple[int, Running]]:
    world = request.param
    server = start_server("Warp and weft.", longest=4096, reports=reports_of(world), layout=view_of(world))
    yield world, server
    server.stop()


@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page(browser: Any, served: tuple[int, Running], width: int, scheme: str, tmp_path: Path) -> None:
    world, server = served
    with opened(browser, f"{server.url}/", width, scheme) as page:
        page.get_by_label("Message").fill("Hello")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("Warp and weft.").wait_for()
        page.locator("#picture img").wait_for()
        page.wait_for_function("() => document.querySelector('#picture img').naturalWidth > 100")
        page.locator(".cells li").first.wait_for()
        page.get_by_text("busy").first.wait_for()
        cells = page.locator(".cells li").count()
        assert cells == world if world <= 64 else 2 <= cells <= 130
        assert page.locator("#status").inner_text() == "ready"
        assert f"{world:,} ranks" in page.locator("#ranks-note").inner_text()
        if world > 64:
            assert "on 64 hosts" in page.locator("#ranks-note").inner_text()
            assert "host-63" in page.locator(".cells li").last.inner_text()
            assert "1 load" in page.locator("#ranks-note").inner_text()
        assert "First token" in page.locator("#tiles").inner_text()
        page.screenshot(path=str(tmp_path / f"page-{world}-{width}-{scheme}.png"), full_page=True)
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        assert violations(page) == []


def test_a_key_and_a_path_in_front(browser: Any, start_server: Start) -> None:
    http = HttpConfig(api_key="secret", admin_key="other", root_path="/llm/a")
    server = start_server("Warp and weft.", longest=2048, reports=reports_of(2), layout=view_of(2), http=http)
    try:
        with opened(browser, f"{server.url}/llm/a/") as page:
            page.get_by_label("This server needs a key").fill("wrong")
            page.get_by_role("button", name="Use key").click()
            page.get_by_text("does not know this key").wait_for()
            assert violations(page) == []
            page.get_by_label("This server needs a key").fill("secret")
            page.get_by_role("button", name="Use key").click()
            page.locator("#picture img").wait_for()
            page.get_by_text("Numbers need the admin key.").wait_for()
            page.get_by_label("Message").fill("Hello")
            page.get_by_label("Message").press("Enter")
            page.get_by_text("Warp and weft.").wait_for()
            assert "secret" not in page.url and not page.locator("#key-form").is_visible()
    finally:
        server.stop()


def test_hosts_have_headings(browser: Any, start_server: Start) -> None:
    server = start_server("abc", reports=reports_of(256), layout=view_of(256))
    try:
        with opened(browser, f"{server.url}/") as page:
            page.locator(".cells li").first.wait_for()
            assert page.get_by_role("heading", name=re.compile("^Host host-")).count() == 4
            page.get_by_text("The layout in text").click()
            page.get_by_role("cell", name="sampling.out").wait_for()
            assert violations(page) == []
    finally:
        server.stop()


BALANCE = """\
weft:expert_layer_balance{engine="0",layer="0",model_name="m",placement="before"} 0.4
weft:expert_layer_balance{engine="0",layer="0",model_name="m",placement="now"} 0.93
weft:expert_layer_balance{engine="0",layer="1",model_name="m",placement="now"} 0.42
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 50
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.2",model_name="m"} 100
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 100
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
http_requests_total{handler="/v1/messages",method="POST",status="5xx"} COUNT
"""


def test_numbers_are_those_of_metrics(browser: Any, start_server: Start) -> None:
    """Percentiles by hand: half of the first tokens came within 0.1 s, and 95 % within 0.19 s."""
    server = start_server("abc", reports=reports_of(16), layout=view_of(16))
    looks = iter(range(1, 1000))
    try:
        with opened(browser, f"{server.url}/docs") as page:
            page.route("**/metrics", lambda route: route.fulfill(body=BALANCE.replace("COUNT", str(next(looks)))))
            page.goto(f"{server.url}/")
            page.get_by_text("layer 1: 42 %").wait_for()
            assert page.locator("#heat-cells li").all_inner_texts() == ["layer 0: 93 %", "layer 1: 42 %"]
            assert "100 ms / 190 ms / 198 ms" in page.locator("#tiles").inner_text()
            assert "50 %" in page.locator("#tiles").inner_text()
            page.get_by_text("POST /v1/messages: 5xx").first.wait_for()
            page.get_by_text("KV 75 %").first.wait_for()
            assert page.get_by_text("KV 25 %").count() == page.get_by_text("KV 75 %").count() == 8
            assert violations(page) == []
    finally:
        server.stop()


def test_an_answer_is_stopped_and_an_error_is_listed(browser: Any, start_server: Start) -> None:
    server = start_server("abcdefghij" * 30, longest=512, step_s=0.02)
    try:
        with opened(browser, f"{server.url}/") as page:
            page.get_by_label("Message").fill("Hello")
            page.get_by_role("button", name="Send").click()
            page.get_by_text("abcdefghij").wait_for()
            page.get_by_role("button", name="Stop").click()
            page.get_by_text("stopped", exact=True).wait_for()
            page.get_by_role("button", name="Send").wait_for()
            assert len(page.locator(".turn.assistant").inner_text()) < 300
            page.get_by_label("Most tokens").fill("100000")
            page.get_by_label("Message").fill("Again")
            page.get_by_role("button", name="Send").click()
            page.locator("#faults li").first.wait_for()
            assert "context" in page.locator("#faults").inner_text()
            page.get_by_role("button", name="New chat").click()
            assert page.locator(".turn").count() == 0
    finally:
        server.stop()


@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_operations(browser: Any, alphabet: Running, width: int, scheme: str, tmp_path: Path) -> None:
    with opened(browser, f"{alphabet.url}/docs", width, scheme) as page:
        page.get_by_role("heading", name="post /v1/messages", exact=True).wait_for()
        document = alphabet.http.get("/openapi.json").json()
        wanted = sum(len(operations) for operations in document["paths"].values())
        assert page.locator("#operations section").count() == wanted
        page.get_by_text("Request: ResponsesRequest").click()
        page.screenshot(path=str(tmp_path / f"docs-{width}-{scheme}.png"))
        assert page.get_by_text("max_output_tokens").first.is_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        assert violations(page) == []
