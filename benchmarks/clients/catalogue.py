"""The clients that are tried: what each needs installed, and what it runs against a server's address."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = """\
task: weft_tiny
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
QUESTIONS = ({"question": "Is it so?", "answer": 0}, {"question": "Is water dry?", "answer": 1})
VLLM = """\
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client runs: its interpreter, an empty folder, the server's address, model name and model directory."""

    python: str
    folder: Path
    url: str
    model: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Client:
    """`requirements`: for pip, pinned. `wheel`: unpacked beside them, not installed, where a client is part of a
    package whose own dependencies are gigabytes. `shared`: torch and transformers are those of this environment."""

    name: str
    requirements: tuple[str, ...]
    command: Callable[[Place], list[str]]
    wheel: str | None = None
    shared: bool = False
    said: str = ""
    """Pattern of what it prints when requests succeeded: some end with exit code 0 although all failed."""


def _calls(script: str) -> Callable[[Place], list[str]]:
    return lambda place: [place.python, str(HERE / script), place.url, place.model]


def _lm_eval(place: Place) -> list[str]:
    data = place.folder / "data.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (place.folder / "weft_tiny.yaml").write_text(TASK.replace("DATA", str(data)))
    model = {
        "model": place.model, "base_url": f"{place.url}/v1/completions", "tokenizer": place.directory,
        "tokenizer_backend": "huggingface", "tokenized_requests": True, "num_concurrent": 1, "max_retries": 1,
    }  # fmt: skip
    words = ",".join(f"{name}={value}" for name, value in model.items())
    return [
        place.python, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", words,
        "--tasks", "weft_tiny", "--include_path", str(place.folder), "--batch_size", "1",
    ]  # fmt: skip


def _guidellm(place: Place) -> list[str]:
    return [
        place.python, "-m", "guidellm", "run", "--backend", f"kind=openai_http,target={place.url},model={place.model}",
        "--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=4",
        "--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=8",
        "--tokenizer", f"kind=hf_auto,model={place.directory}",
        "--output", f"kind=json,path={place.folder / 'guidellm.json'}", "--disable-progress",
    ]  # fmt: skip


def _vllm(place: Place) -> list[str]:
    """Neither model nor tokenizer is named: it asks the server for both."""
    program = place.folder / "vllm_bench.py"
    program.write_text(VLLM)
    return [
        place.python, str(program), "--backend", "openai", "--base-url", place.url, "--dataset-name", "random",
        "--random-input-len", "16", "--random-output-len", "8", "--num-prompts", "4", "--ignore-eos",
    ]  # fmt: skip


def _sglang(place: Place) -> list[str]:
    return [
        place.python, "-m", "sglang.bench_serving", "--backend", "vllm", "--base-url", place.url,
        "--model", place.model, "--tokenizer", str(place.directory), "--dataset-name", "random-ids",
        "--random-input-len", "16", "--random-output-len", "8", "--random-range-ratio", "1", "--num-prompts", "4",
    ]  # fmt: skip


DONE = r"Successful requests:\s+4\b"
SMALL = (
    "aiohttp", "cachetools", "cloudpickle", "compressed-tensors", "einops", "fastapi", "llguidance", "openai-harmony",
    "orjson", "partial-json-parser", "pillow", "pybase64", "py-cpuinfo", "pyzmq", "sentencepiece", "xgrammar",
)  # fmt: skip
"""What both packages import on the way to their benchmark clients."""

CLIENTS = (
    Client("openai", ("openai==3.51.0",), _calls("openai_calls.py")),
    Client("openai-1", ("openai==1.109.1",), _calls("openai_calls.py")),
    Client("langchain-openai", ("langchain-openai==1.7.3",), _calls("langchain_calls.py")),
    Client("litellm", ("litellm==1.106.2", "mcp==2.3.0"), _calls("litellm_calls.py")),
    Client("openai-tools", ("openai==3.51.0",), _calls("openai_tools.py")),
    Client("openai-agents", ("openai-agents==0.24.0",), _calls("openai_agents_calls.py")),
    Client("anthropic", ("anthropic==2.14.0",), _calls("anthropic_calls.py")),
    Client("openai-structured", ("openai==3.51.0",), _calls("structured_calls.py")),
    Client("instructor", ("instructor==1.17.0",), _calls("instructor_calls.py")),
    Client("pydantic-ai", ("pydantic-ai-slim[openai]==2.68.0",), _calls("pydantic_ai_calls.py")),
    Client("outlines", ("outlines==1.3.3", "openai==3.57.0"), _calls("outlines_calls.py")),
    Client("llama-index", ("llama-index-llms-openai-like==0.8.1",), _calls("llama_index_calls.py")),
    Client("lm-eval", ("lm-eval[api]==0.4.13",), _lm_eval, shared=True, said=r"weft_tiny.*acc"),
    Client("guidellm", ("guidellm==0.8.1",), _guidellm, shared=True, said=r"generated 1 benchmark"),
    Client("vllm-bench", (*SMALL, "cbor2"), _vllm, wheel="vllm==0.33.0", shared=True, said=DONE),
    Client(
        "sglang-bench",
        (*SMALL, "apache-tvm-ffi", "datasets", "ipython", "torchvision", "triton"),
        _sglang,
        wheel="sglang==0.5.23",
        shared=True,
        said=DONE,
    ),
)


def chosen(names: list[str]) -> tuple[Client, ...]:
    """Clients of these names, all where there are none; ends the program for an unknown one."""
    known = {client.name: client for client in CLIENTS}
    for name in names:
        if name not in known:
            sys.exit(f"unknown client {name}; legal: {', '.join(known)}")
    return tuple(known[name] for name in names) if names else CLIENTS
