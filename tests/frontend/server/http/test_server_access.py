"""Access: keys, routes, origins, certificates, sockets."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.frontend.server.conftest import Running, Start
from weft.base.errors import ConfigError, RequestError
from weft.frontend.server.http.access import Access, GuardedRoute, Keys, check_declared, read_key
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.http.listen import bind, bind_unix
from weft.frontend.server.openai.structured import LEFT_OUT
from weft.frontend.server.operations import Operation
from weft.frontend.server.routes import all_operations

USER, ADMIN = "user-secret", "admin-secret"
OPEN = {"/health", "/ping", "/load", "/ready", "/version", "/openapi.json", "/", "/docs", "/page/{name}"}
"""All that anyone may have: a route that is declared open is added here on purpose."""
NAMES = {"/v1/models/{name}": "/v1/models/tiny", "/page/{name}": "/page/common.js"}
ROUTES = [
    (each.method, NAMES.get(each.shown_path, each.shown_path.replace("{id}", "x")), each) for each in all_operations()
]
"""Method, a path with a word in place of each parameter, and what is declared."""


@pytest.fixture(scope="module")
def keyed(start_server: Start) -> Any:
    http = HttpConfig(api_key=USER, admin_key=ADMIN, allowed_origins="https://a.example", root_path="/llm/a")
    server = start_server("abc", http=http)
    yield server
    server.stop()


def status(server: Running, path: str, key: str | None = None, method: str = "GET", **headers: str) -> int:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    raw += [] if key is None else [(b"authorization", f"Bearer {key}".encode("latin-1"))]
    return server.http.request(method, path, headers=raw, json={} if method == "POST" else None).status_code


@pytest.mark.parametrize(
    ("method", "path", "asked"), ROUTES, ids=lambda value: str(value) if isinstance(value, str) else ""
)
@pytest.mark.parametrize("key", [None, USER, ADMIN, USER[:-1], USER + "x", "\xe9"])
def test_every_route_holds_its_declaration(
    keyed: Running, method: str, path: str, asked: Operation, key: str | None
) -> None:
    got = status(keyed, path, key, method)
    absent = "/responses/x" in path or "layout" in path
    served = 404 if absent else 400 if asked.takes else 200
    if asked.access is Access.OPEN or key == ADMIN or (key == USER and asked.access is Access.USER):
        assert got == served
    else:
        assert got == (403 if key == USER else 401)


def test_only_these_routes_are_open_and_metrics_are_for_admins() -> None:
    assert {each.shown_path for each in all_operations() if each.access is Access.OPEN} == OPEN
    assert {each.shown_path for each in all_operations() if each.access is Access.ADMIN} == {"/metrics"}


def test_the_document_has_every_route(keyed: Running) -> None:
    paths = keyed.http.get("/openapi.json").json()["paths"]
    documented = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert documented == {(each.shown_path, each.method) for each in all_operations()}


@pytest.mark.parametrize(("key", "wanted"), [(None, 401), (USER, 200)])
def test_a_path_in_front_changes_no_access(keyed: Running, key: str | None, wanted: int) -> None:
    assert status(keyed, "/llm/a/v1/models", key) == status(keyed, "/llm/a/v1/models/tiny", key) == wanted
    for path in ("/llm/v1/models", "/llm/av1/models", "/llm/a/llm/a/v1/models", "/llm/a"):
        assert status(keyed, path, key) == 404


@pytest.mark.parametrize("path", ["", "/", "llm", "/llm/", "/a//b", "/a?b", "/../a b"])
def test_paths_that_cannot_be_in_front(path: str) -> None:
    with pytest.raises(ConfigError, match=r"root_path"):
        HttpConfig(root_path=path)


@pytest.mark.parametrize("key", ["schlüssel", "clé à", "鍵"])
def test_a_key_beyond_ascii_is_the_one_whose_bytes_were_sent(key: str) -> None:
    def asked(sent: bytes) -> Request:
        return Request({"type": "http", "headers": [(b"authorization", b"Bearer " + sent)]})

    keys = Keys.of(key, None)
    assert keys.allows(asked(key.encode()), Access.USER) and keys.allows(asked(b" " + key.encode()), Access.USER)
    assert not keys.allows(asked(key.encode()[:-1]), Access.USER)


def test_a_key_elsewhere_is_none(keyed: Running) -> None:
    assert status(keyed, f"/v1/models?api_key={USER}") == 401
    assert status(keyed, "/v1/models", **{"x-api-key": USER[:-1]}) == 401
    assert status(keyed, "/v1/models", **{"api-key": USER}) == 401
    assert status(keyed, "/v1/models", **{"authorization": "Bearer"}) == 401
    assert status(keyed, "/v1/models", **{"authorization": f"Basic {USER}"}) == 401
    assert status(keyed, "/v1/models", **{"authorization": f"bearer  {USER}"}) == 200
    error = keyed.http.get("/v1/models").json()["error"]
    assert error["code"] == "invalid_api_key" and USER not in str(error)


def test_a_key_may_come_as_anthropic_clients_send_it(keyed: Running) -> None:
    assert status(keyed, "/v1/models", **{"x-api-key": USER}) == 200
    assert status(keyed, "/v1/models", **{"x-api-key": "other", "authorization": f"Bearer {USER}"}) == 200
    assert status(keyed, "/metrics", **{"x-api-key": USER}) == 403


@pytest.mark.parametrize("path", ["//metrics", "/metrics/", "/METRICS", "/%6detrics", "/v1/../metrics", "/metrics%00"])
def test_no_spelling_of_a_path_goes_around_the_key(keyed: Running, path: str) -> None:
    """The client takes the first for a host, and asks for the page."""
    answer = keyed.http.get(path, headers={"host": "x/health?"})
    assert answer.status_code in (307, 401, 404) or answer.text.startswith("<!doctype html>")


def test_ranks_are_shown_to_those_who_have_the_key(keyed: Running) -> None:
    assert keyed.http.get("/ready").json()["ranks"] == []


def test_without_keys_everything_is_open(alphabet: Running) -> None:
    assert all(status(alphabet, path, method=method) in (200, 400, 404) for method, path, _ in ROUTES)


def test_an_undeclared_route_is_no_server() -> None:
    async def answer(request: Request) -> Response:
        return Response()

    check_declared([GuardedRoute("/a", answer, ["GET"], Access.USER)])
    with pytest.raises(ConfigError, match="/b does not declare who may call it"):
        check_declared([GuardedRoute("/a", answer, ["GET"], Access.USER), Route("/b", answer)])


def test_keys_that_are_none() -> None:
    with pytest.raises(ConfigError, match="api_key is empty"):
        Keys.of(" ", None)
    with pytest.raises(ConfigError, match="two different keys"):
        Keys.of("x", "x")


def test_where_a_key_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\nsecond line\n")
    assert read_key("given", None, "environ", "api-key") == "given"
    assert read_key(None, file, "environ", "api-key") == "from-file"
    assert read_key(None, None, "environ", "api-key") == "environ" and read_key(None, None, "", "api-key") is None
    with pytest.raises(ConfigError, match="both give the key"):
        read_key("given", file, None, "api-key")
    with pytest.raises(ConfigError, match="No such file"):
        read_key(None, tmp_path / "none", None, "api-key")
    file.write_text("\n")
    with pytest.raises(ConfigError, match="first line is empty"):
        read_key(None, file, None, "api-key")
    assert HttpConfig().keys({"WEFT_API_KEY": "a", "WEFT_ADMIN_KEY": "b"}) == Keys.of("a", "b")


def test_beyond_this_machine_only_with_a_key() -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        bind("127.1.2.3.4", 0)
    with pytest.raises(ConfigError, match="without an API key"):
        bind("0.0.0.0", 0)
    with pytest.raises(ConfigError, match="an address of this machine"):
        bind("example.com", 0, keyed=True)


def test_other_origins(keyed: Running) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    wanted = asked | {"access-control-request-headers": "authorization"}
    assert (
        keyed.http.options("/v1/completions", headers=wanted).headers["access-control-allow-origin"] == asked["origin"]
    )
    assert (
        "access-control-allow-origin" not in keyed.http.get("/health", headers={"origin": "https://b.example"}).headers
    )
    shown = keyed.http.get("/health", headers={"origin": "https://a.example"})
    assert shown.headers["access-control-allow-origin"] == "https://a.example"
    assert LEFT_OUT in shown.headers["access-control-expose-headers"].split(", ")


def test_origins_that_are_none() -> None:
    assert HttpConfig(allowed_origins="https://a, http://b:1").origins == ("https://a", "http://b:1")
    with pytest.raises(ConfigError, match="example.com: legal"):
        HttpConfig(allowed_origins="example.com")
    assert HttpConfig(allowed_origins='["https://a", "http://b:1"]').origins == ("https://a", "http://b:1")
    assert HttpConfig(allowed_origins='["*"]').origins == ("*",)


def test_every_answer_has_an_id(alphabet: Running) -> None:
    assert alphabet.http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    first, second = (alphabet.http.get(path).headers["x-request-id"] for path in ("/health", "/nothing"))
    assert first != second and len(first) == 32
    odd = alphabet.http.get("/health", headers={"x-request-id": "a b" * 90}).headers["x-request-id"]
    assert len(odd) == 32


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https(start_server: Start, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(cert), *words]
    subprocess.run(make, check=True, capture_output=True)
    config = HttpConfig(ssl_certfile=str(cert), ssl_keyfile=str(key))
    config.check_certificate()
    server = start_server("abc", http=config)
    try:
        trusted = ssl.create_default_context(cafile=cert)
        with httpx.Client(base_url=server.url.replace("http:", "https:"), verify=trusted) as client:
            body = {"prompt": "x", "stream": True, "max_tokens": 2}
            assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
    finally:
        server.stop()


def test_certificates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        HttpConfig(ssl_certfile="x")
    with pytest.raises(ConfigError, match="No such file"):
        HttpConfig(ssl_certfile="/none/c", ssl_keyfile="/none/k").check_certificate()
    (tmp_path / "bad").write_text("x")
    with pytest.raises(ConfigError, match="ssl_certfile"):
        HttpConfig(ssl_certfile=str(tmp_path / "bad"), ssl_keyfile=str(tmp_path / "bad")).check_certificate()


def test_a_unix_socket(start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has room for about 100 characters
    path = "weft.sock"
    server = start_server("abc", sock=bind_unix(path))
    try:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match="another process listens there"):
            bind_unix(path)
        with httpx.Client(base_url="http://localhost", transport=httpx.HTTPTransport(uds=path)) as client:
            assert client.post("/v1/completions", json={"prompt": "x"}).json()["choices"][0]["text"] == "abc"
    finally:
        server.stop()
    with bind_unix(path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="no socket"):
        bind_unix(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="uds"):
        bind_unix(str(tmp_path / ("x" * 200)))


@pytest.mark.parametrize(
    ("fields", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "127.0.0.1", 200),
        ({}, "[::1]:80", 200),
        ({}, "LOCALHOST", 200),
        ({}, "evil.example:8000", 403),
        ({}, "localhost.evil.example", 403),
        ({"allowed_hosts": "a.example, b.example"}, "b.example", 200),
        ({"allowed_hosts": "a.example"}, "localhost", 403),
        ({"allowed_hosts": "*"}, "evil.example", 200),
        ({"api_key": "secret"}, "any.example", 200),
    ],
)
def test_only_its_own_names_reach_a_server_without_a_key(fields: dict[str, Any], host: str, status: int) -> None:
    with bind("127.0.0.1", 0) as sock:
        hosts = HttpConfig(**fields).hosts(sock)
    if status == 200:
        hosts.check(host)
    else:
        with pytest.raises(RequestError) as refused:
            hosts.check(host)
        assert refused.value.status == status and refused.value.code == "host_not_allowed"


def test_every_address_of_this_machine_alone_has_its_own_names() -> None:
    with bind("127.0.0.2", 0) as sock:
        hosts = HttpConfig().hosts(sock)
    hosts.check("127.0.0.2:8000")
    hosts.check("localhost:8000")
    with pytest.raises(RequestError, match="'evil.example'"):
        hosts.check("evil.example")


@pytest.mark.parametrize("name", ["a.example:8000", "https://a.example", "a.example/x", ",", " , "])
def test_names_that_no_request_can_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="allowed_hosts .*legal: .*llm.example.com, without scheme and port"):
        HttpConfig(allowed_hosts=name)
    assert HttpConfig(allowed_hosts="[::1], A.example").allowed_names == frozenset({"::1", "a.example"})


@pytest.mark.parametrize("origin", ["https://a.example/", "https://a.example/page", "a.example", "https://"])
def test_origins_that_no_page_has_are_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="allowed_origins .*legal: "):
        HttpConfig(allowed_origins=origin)


def test_a_foreign_host_is_refused_on_every_route(alphabet: Running) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/openapi.json"):
        answer = alphabet.http.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
