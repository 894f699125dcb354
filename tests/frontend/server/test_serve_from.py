"""`weft serve --from ENGINE -- <its command>` with real ranks: the engine's words decide the layout, and it answers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.frontend.server.test_serve_command import Served, weft
from tests.support.tiny_chat import write_tiny_chat

SGLANG = (
    "python -m sglang.launch_server --tp 2 --dp 2 --enable-dp-attention --context-length 128 "
    "--max-running-requests 4 --host 0.0.0.0 --port 30000 --model-path"
)
VLLM = (
    "vllm serve --max-model-len 128 --max-num-seqs=4 -tp 2 --port 8001 --served-model-name one two --api-key secret"
    ' --allowed-origins ["https://a.example"] --model'
)

REPLICAS = "vllm serve --max-model-len 128 --max-num-seqs=4 -dp 2 --port 8001 --model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("foreign") / "tiny")


@pytest.mark.parametrize(
    ("dialect", "words", "attention", "dense"),
    [
        ("sglang", SGLANG, "tp: 1, dp: 2", "dense: {tp: 2}"),
        ("vllm", VLLM, "tp: 2, dp: 1", "dense: {tp: 2}"),
        ("vllm", REPLICAS, "tp: 1, dp: 1", "replicas: 2"),
    ],
)
def test_an_engine_s_command_serves(model: Path, dialect: str, words: str, attention: str, dense: str) -> None:
    template = model.parent / "template.jinja"
    template.write_text("{{ messages[0].content }}!")
    own = ("--port", "0", "--log-level", "debug", "--chat-template", str(template), "--from", dialect)
    served = Served(weft("serve", *own, "--", *words.split(), str(model)))
    try:
        served.wait_ready()
        assert f"attention: {{{attention}" in served.text and dense in served.text
        assert "max_model_len 128" in served.text and len(served.ranks()) == 2
        assert "weft listens where its own --host and --port say" in served.text
        assert ":30000" not in served.url and ":8001" not in served.url
        key = {"authorization": "Bearer secret"}
        if "--api-key" in words:
            assert httpx.get(f"{served.url}/v1/models").status_code == 401, "it is no more open than it was there"
            page = httpx.get(f"{served.url}/v1/models", headers={**key, "origin": "https://a.example"})
            assert page.headers["access-control-allow-origin"] == "https://a.example"
            assert [(card["id"], card["root"]) for card in page.json()["data"]] == [
                ("one", str(model)),
                ("two", str(model)),
            ]
        with httpx.Client(base_url=served.url, timeout=240, headers=key) as client:
            chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "abc"}]}).json()
            assert chat["tokens"] == client.post("/tokenize", json={"prompt": "abc!"}).json()["tokens"]
            asked = {"prompt": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
            answer = client.post("/v1/completions", json=asked).json()
            assert answer["usage"]["completion_tokens"] == 8 and answer["choices"][0]["text"]
    finally:
        served.process.terminate()
        assert served.end() == 0
        served.close()
    assert "Traceback" not in served.text


def test_what_the_engine_would_refuse_is_refused_before_loading(model: Path) -> None:
    words = f"python -m sglang.launch_server --model-path {model} --tp 4 --dp 3 --enable-dp-attention"
    process = weft("serve", "--port", "0", "--from", "sglang", "--", *words.split())
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 78
    assert "sglang would refuse this: --dp 3: --enable-dp-attention divides tp 4; legal: 1, 2, 4" in text
    assert "Traceback" not in text
