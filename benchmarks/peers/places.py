"""Where things lie under the cache, and what each engine's process is started with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.cases import Case
from benchmarks.peers.engines import Engine
from benchmarks.peers.report.limits import Shape, read_shape
from weft.base.errors import ConfigError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOME_ROOM = 16
LEAST_KV_GIB = 2
"""Room for keys and values where an engine needs it as an option and the cases need no more."""


@dataclass(frozen=True, slots=True)
class Places:
    """`cache`: everything of the peers; `form`: the model whose files are used; `cores`: the CPUs to compute on."""

    cache: Path
    form: str
    cores: tuple[int, ...]

    @property
    def models(self) -> Path:
        """The files of the model."""
        return self.cache / "models" / self.form

    @property
    def programs(self) -> Path:
        """llama.cpp's tools."""
        return self.cache / "llamacpp" / "build" / "bin"

    def peer(self, name: str) -> Path:
        """The folder of a peer."""
        return self.cache / name

    def python(self, peer: str) -> Path:
        """The interpreter that runs a peer's driver. weft and tools that are no Python take this one."""
        venv = self.peer(peer) / "venv" / "bin" / "python"
        return Path(sys.executable) if peer in ("weft", "llamacpp") else venv

    def shape(self) -> Shape:
        """The model's sizes. ConfigError where the model was not made yet."""
        config = self.models / "directory" / "config.json"
        if not config.exists():
            raise ConfigError(f"{config} is not there: run this once with --setup, and the same --form and --cache")
        return read_shape(config)

    def length(self, cases: tuple[Case, ...]) -> int:
        """Tokens of the longest sequence, with some room where the model's context has it: a prompt's last token and a
        server's own counting."""
        positions = json.loads((self.models / "directory" / "config.json").read_text())["max_position_embeddings"]
        return min(max(case.length for case in cases) + SOME_ROOM, int(positions))

    def kv_gib(self, cases: tuple[Case, ...]) -> int:
        """Room for the keys and values of the largest case, and a fifth more."""
        needed = 1.2 * max(case.streams * case.length for case in cases) * self.shape().kv_bytes
        return max(LEAST_KV_GIB, -(-int(needed) // 2**30))

    def environment(self, engine: Engine, cases: tuple[Case, ...]) -> dict[str, str]:
        """Of an engine's process: as many threads as cores, no network, no telemetry."""
        common = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "0",
        }
        plain = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
        return {**plain, **common, **self._own(engine, cases)}

    def _own(self, engine: Engine, cases: tuple[Case, ...]) -> Mapping[str, str]:
        if engine.ours:
            return {"PYTHONPATH": str(ROOT)}
        if engine.peer != "vllm":
            return {"OMP_NUM_THREADS": str(len(self.cores))}
        share = -(-len(self.cores) // engine.tp)
        parts = [self.cores[start : start + share] for start in range(0, len(self.cores), share)]
        return {
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, part)) for part in parts),
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_gib(cases)),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_TARGET_DEVICE": "cpu",
            "LD_PRELOAD": ":".join(map(str, preloads(self.peer("vllm")))),
        }

    def driver(self, engine: Engine) -> list[str]:
        """The command of the offline driver."""
        return [str(self.python(engine.peer)), "-u", str(HERE / "drivers" / f"{engine.peer}_driver.py")]

    def settings(self, engine: Engine, cases: tuple[Case, ...]) -> dict[str, object]:
        """What the driver loads: room for the largest of the cases and no more."""
        return {
            "model": str(self.models / engine.model),
            "threads": len(self.cores),
            "max_model_len": self.length(cases),
            "max_num_seqs": most(cases),
            "cache_gib": self.kv_gib(cases),
            "programs": str(self.programs),
            **engine.options,
        }

    def server(self, engine: Engine, cases: tuple[Case, ...], port: int) -> list[str]:
        """The command of the server. It must have one: `engine.words` is not None."""
        assert engine.words is not None
        model, streams, length = str(self.models / engine.model), most(cases), self.length(cases)
        address = ["--host", "127.0.0.1", "--port", str(port)]
        if engine.peer == "llamacpp":
            threads = str(len(self.cores))
            room = ["-c", str(streams * length), "-np", str(streams), "-b", "2048", "-ub", "512", "-fa", "on"]
            own = ["-t", threads, "-tb", threads, "--no-webui", "--no-cache-prompt", "--cache-ram", "0"]
            return [str(self.programs / "llama-server"), "-m", model, *address, *room, *own, *engine.words]
        limits = ["--max-model-len", str(length), "--max-num-seqs", str(streams), "--served-model-name", "model"]
        if engine.ours:
            program = [sys.executable, "-m", "weft.cli.main", "serve", model, "--no-enable-prefix-caching"]
            return [*program, *address, *limits, *engine.words]
        program = [str(self.python("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        own = ["--dtype", "bfloat16", "--enforce-eager", "--no-enable-prefix-caching", "--tensor-parallel-size"]
        return [*program, *address, *limits, *own, str(engine.tp), *engine.words]


def preloads(peer: Path) -> list[Path]:
    """Libraries that vllm's own log asks for: Intel's OpenMP of its environment, and tcmalloc where it could be had."""
    found = sorted(peer.glob("venv/lib/libiomp5.so"))
    return found + sorted(peer.glob("tcmalloc/**/libtcmalloc_minimal.so.4"))[:1]


def most(cases: tuple[Case, ...]) -> int:
    """Streams of the largest case."""
    return max(case.streams for case in cases)
