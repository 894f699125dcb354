"""HttpConfig: where the server listens, its keys and origins, what it writes. Options by declaration."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.base.env import admin_key, api_key
from weft.base.errors import ConfigError
from weft.base.options import Setting, check_fields, option, settings_of
from weft.frontend.server.http.access import Keys, read_key
from weft.frontend.server.http.hosts import LOCAL_NAMES, Hosts

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"\*|https?://[^\s/?#]+")
_HOST = re.compile(r"\*|[a-z0-9._-]+|[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*")
"""A name, or an address; two colons are those of IPv6, one would be a port's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """As given; impossible values raise ConfigError."""

    host: str = option(
        "127.0.0.1", "address to listen on; beyond this machine only with an API key", "--host", metavar="HOST"
    )
    port: int = option(8000, "port; 0 takes any free one", "--port", minimum=0, maximum=65535)
    uds: str | None = option(None, "listen on this Unix socket instead", "--uds", metavar="PATH", expert=True)
    api_key: str | None = option(None, "key that clients must send (also WEFT_API_KEY)", "--api-key", metavar="KEY")
    api_key_file: str | None = option(None, "file whose first line is the key", "--api-key-file", metavar="FILE")
    admin_key: str | None = option(
        None, "key of /metrics, if another (also WEFT_ADMIN_KEY)", "--admin-key", metavar="KEY", expert=True
    )
    admin_key_file: str | None = option(
        None, "file whose first line is the admin key", "--admin-key-file", metavar="FILE", expert=True
    )
    allowed_origins: str | None = option(
        None,
        "web pages that may call the server: origins with commas between, or *",
        "--allowed-origins",
        metavar="ORIGIN,ORIGIN,...",
    )
    allowed_hosts: str | None = option(
        None,
        "host names that requests may use, with commas between, or *; left out: its own names on this machine without a"
        " key, else any",
        "--allowed-hosts",
        metavar="HOST,HOST,...",
        expert=True,
    )
    ssl_certfile: str | None = option(
        None, "certificate chain, PEM: the server speaks HTTPS", "--ssl-certfile", metavar="FILE", expert=True
    )
    ssl_keyfile: str | None = option(
        None, "the certificate's private key, PEM", "--ssl-keyfile", metavar="FILE", expert=True
    )
    root_path: str | None = option(
        None,
        "prefix of every route, where a proxy keeps it; routes answer without it too",
        "--root-path",
        metavar="PATH",
        expert=True,
    )
    max_queued: int = option(
        256, "outputs that may wait in the queue; more get 429", "--max-queued", minimum=0, expert=True
    )
    max_connections: int | None = option(
        None,
        "connections that may be open; more get 503 (default: 4096, fewer where the limit of open files leaves fewer)",
        "--max-connections",
        minimum=1,
        expert=True,
    )
    queue_timeout: float = option(
        600.0,
        "seconds that a request may wait for its first step; then 504",
        "--queue-timeout",
        above=0.0,
        metavar="SECONDS",
        expert=True,
    )
    enable_force_include_usage: bool = option(
        False,
        "every chunk of a stream has the usage so far, and a last one that of the whole, as if stream_options asked",
        "--enable-force-include-usage",
        expert=True,
    )
    strict_requests: bool = option(
        False,
        "refuse fields and tools of requests that the server does not know, instead of leaving them out",
        "--strict-requests",
        expert=True,
    )
    log_level: str | None = option(
        None, "what is logged (also WEFT_LOG)", "--log-level", choices=("debug", "info", "warning", "error")
    )
    log_format: str | None = option(
        None,
        "one line of text or of JSON per record (also WEFT_LOG_FORMAT)",
        "--log-format",
        choices=("text", "json"),
        expert=True,
    )
    access_log: bool = option(False, "log a line for every request, without its contents", "--access-log", expert=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("--ssl-certfile and --ssl-keyfile belong together; one is missing", field="ssl_keyfile")
        if self.root_path is not None and not _PREFIX.fullmatch(self.root_path):
            raise ConfigError(
                f"root_path {self.root_path}: legal: paths such as /llm, with a slash before each part and none behind",
                field="root_path",
                value=self.root_path,
            )
        self.origins, self.allowed_names  # noqa: B018  (refused before anything is loaded)

    def keys(self, environ: Mapping[str, str] = os.environ) -> Keys:
        """The keys' digests. ConfigError: a file cannot be read, a key is empty."""
        user = self.user_key(environ)
        admin = read_key(self.admin_key, _path(self.admin_key_file), admin_key(environ), "admin-key")
        return Keys.of(user, admin)

    def user_key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """What clients must send; None: nothing. ConfigError as of `keys`."""
        return read_key(self.api_key, _path(self.api_key_file), api_key(environ), "api-key")

    @property
    def origins(self) -> tuple[str, ...]:
        """Allowed origins, one by one. ConfigError for what is no origin."""
        words = (self.allowed_origins or "").strip().removeprefix("[").removesuffix("]")
        parts = tuple(part for word in words.split(",") if (part := word.strip(" \"'")))
        for part in parts:
            if not _ORIGIN.fullmatch(part):
                raise ConfigError(
                    f"allowed_origins {part}: legal: *, or origins such as https://example.com",
                    field="allowed_origins",
                    value=part,
                )
        return parts

    @property
    def allowed_names(self) -> frozenset[str] | None:
        """Allowed hosts, one by one; None where nothing is said. ConfigError for what no request can name."""
        if self.allowed_hosts is None:
            return None
        parts = [part.strip().lower().strip("[]") for part in self.allowed_hosts.split(",") if part.strip()]
        wrong = next((part for part in parts if not _HOST.fullmatch(part)), None)
        if wrong is not None or not parts:
            raise ConfigError(
                f"allowed_hosts {wrong or 'without a name'}: legal: *, or names such as llm.example.com, without scheme"
                " and port",
                field="allowed_hosts",
                value=self.allowed_hosts,
            )
        return frozenset(parts)

    def hosts(self, sock: socket.socket) -> Hosts:
        """Names that the server on `sock` goes by. A web page can give a name of its own this machine's address, and
        would then be free to read what a server without a key answers."""
        if (names := self.allowed_names) is not None:
            return Hosts(None if "*" in names else names)
        address = sock.getsockname()[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else ""
        local = address != "" and ipaddress.ip_address(address).is_loopback
        return Hosts(LOCAL_NAMES | {address} if local and self.keys().user is None else None)

    def check_certificate(self) -> None:
        """ConfigError: certificate and key cannot be read or do not fit."""
        if self.ssl_certfile is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        except (OSError, ssl.SSLError) as error:
            reason = (
                error.strerror if not isinstance(error, ssl.SSLError) else error.reason or "no certificate or no key"
            )
            raise ConfigError(
                f"ssl_certfile {self.ssl_certfile} with ssl_keyfile {self.ssl_keyfile}: {reason}", field="ssl_certfile"
            ) from error


def http_settings() -> tuple[Setting, ...]:
    """The fields as options, in order of declaration."""
    return settings_of(HttpConfig)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
