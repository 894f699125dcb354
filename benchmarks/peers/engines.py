"""The engines: one line each. What they are called, which model file, driver, server and options they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Engine:
    """`peer`: the environment under the cache, and the first half of the file names of its driver.

    `model`: a file of the model (models.py). `options`: settings of the driver beside threads and lengths.
    `words`: options of the server's command line; None: it has no server.
    """

    name: str
    peer: str
    dtype: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] | None = None
    main: bool = True

    @property
    def tp(self) -> int:
        """Ranks."""
        return int(self.options.get("tp", 1))

    @property
    def ours(self) -> bool:
        """Whether it is weft."""
        return self.peer == "weft"


def _words(option: str, value: str | bool) -> tuple[str, ...]:
    flag = option.replace("_", "-")
    return (f"--{flag}" if value else f"--no-{flag}",) if isinstance(value, bool) else (f"--{flag}", value)


def _weft(name: str, dtype: str, tp: int, **engine: str | bool) -> Engine:
    """`engine`: settings other than the defaults."""
    words = [word for option, value in engine.items() for word in _words(option, value)]
    return Engine(name, "weft", dtype, "directory", {"tp": tp, "engine": engine}, ("--tp", str(tp), *words))


ENGINES = (
    _weft("weft-tp1", "bf16", 1),
    _weft("weft-tp2", "bf16", 2),
    _weft("weft-whole", "bf16", 1, compress_weights=False),
    _weft("weft-int8", "int8", 1, quantization="int8", activations="full"),
    _weft("weft-int4", "int4", 1, quantization="int4", activations="full"),
    _weft("weft-int8-rows8", "int8", 1, quantization="int8", activations="int8"),
    _weft("weft-int4-rows8", "int4", 1, quantization="int4", activations="int8"),
    Engine("transformers", "transformers", "bf16", "directory"),
    Engine("vllm-cpu", "vllm", "bf16", "directory", {"tp": 1}, ()),
    Engine("vllm-cpu-tp2", "vllm", "bf16", "padded", {"tp": 2}, ()),
    Engine("llama.cpp-bf16", "llamacpp", "bf16", "bf16.gguf", words=()),
    Engine("llama.cpp-q8_0", "llamacpp", "int8", "q8_0.gguf"),
    Engine("llama.cpp-q4_0", "llamacpp", "int4", "q4_0.gguf", words=()),
    Engine("openvino-bf16", "openvino", "bf16", "openvino-fp16", {"bf16": True}),
    Engine("openvino-int8", "openvino", "int8", "openvino-int8", {"bf16": False}),
    Engine("onnxruntime-int4", "onnxruntime", "int4", "onnx-int4"),
)


def chosen(words: Sequence[str]) -> tuple[Engine, ...]:
    """Engines by name, peer or `main`, in the table's order. ValueError for another word."""
    legal = ["main", *dict.fromkeys([*(one.peer for one in ENGINES), *(one.name for one in ENGINES)])]
    unknown = [word for word in words if word not in legal]
    if unknown:
        raise ValueError(f"no engine {', '.join(unknown)}; legal: {', '.join(legal)}")
    return tuple(one for one in ENGINES if one.name in words or one.peer in words or ("main" in words and one.main))
