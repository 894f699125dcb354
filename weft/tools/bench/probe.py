"""What a server says about itself before it is measured: that it answers, its model's name, its version."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from weft.base.errors import ConfigError, UnavailableError
from weft.tools.bench.client import is_local

LIMIT_S = 20.0


def base_url(word: str) -> str:
    """Scheme and address without a trailing /v1; ConfigError for what is no http address."""
    try:
        parts = urlsplit(word if "://" in word else f"http://{word}")
        legal = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        legal = legal and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        legal = False
    if not legal:
        raise ConfigError(f"url {word}: legal: http://HOST:PORT or https://HOST[/PATH]", field="url", value=word)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def ask_server(url: str, key: str | None, model: str | None) -> dict[str, object]:
    """{"model", "max_model_len", "version"} of the server at `url`; `model`: the one that is wanted, None its first.

    UnavailableError: there is no answer, or not one of OpenAI's API. ConfigError: it has no such model.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=LIMIT_S, trust_env=not is_local(url)) as client:
        cards = _models(client, url)
        names = [str(card.get("id")) for card in cards]
        if model is not None and model not in names:
            raise ConfigError(
                f"{url} has no model {model}; legal: {', '.join(names)}", field="model", value=model, legal=names
            )
        card = cards[names.index(model) if model is not None else 0]
        return {"model": str(card["id"]), "max_model_len": card.get("max_model_len"), "version": _version(client)}


def _models(client: httpx.Client, url: str) -> list[dict[str, object]]:
    try:
        answer = client.get("/v1/models")
        cards = answer.json()["data"] if answer.status_code == 200 else None
    except httpx.HTTPError as error:
        raise UnavailableError(f"no server answers at {url}: {error or type(error).__name__}") from None
    except (ValueError, KeyError, TypeError):
        cards = None
    if answer.status_code in (401, 403):
        raise UnavailableError(f"{url}/v1/models answers {answer.status_code}: give the server's key with --api-key")
    if not isinstance(cards, list) or not cards or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise UnavailableError(f"{url}/v1/models answers {answer.status_code} and no list of models: not OpenAI's API")
    return cards


def _version(client: httpx.Client) -> str | None:
    """Where the server reports one."""
    try:
        answer = client.get("/version")
        value = answer.json().get("version") if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return str(value) if value is not None else None
